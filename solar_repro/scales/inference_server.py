"""Settings of an OpenAI-compatible server that computes what a language model answers."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from solar_repro.scales.section import Section


def _plain_address(url: str) -> str:
    """Refuse what is no web address, and one that holds secrets: addresses are logged and shown."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        plain = False
    if "@" in url or set("?#") & set(url):
        raise ValueError(
            "an address with a user, a password or a query would be shown wherever it is logged; give the "
            "bare address, and the key in the environment variable that key_variable names"
        )
    if not plain or not url.isprintable() or " " in url:
        raise ValueError("is not a web address; write it as http://host:port/v1")
    return url


class InferenceServer(Section):
    """An OpenAI-compatible server and how it is asked; nothing here changes what the model answers."""

    base_url: Annotated[str, AfterValidator(_plain_address)] = Field(
        description="Address of the server, including the version: `http://localhost:8000/v1`."
    )
    key_variable: str = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the key. If it is not set, no key is sent.",
    )
    concurrency: int = Field(8, ge=1, description="Number of requests that are sent at the same time.")
    attempts: int = Field(6, ge=1, description="How often a request is tried before it is left out.")
    timeout: float = Field(120.0, gt=0, description="Seconds that a request may take.")
    first_wait: float = Field(
        1.0, ge=0, description="Seconds to wait before the second try; doubled for each further try."
    )
    prompt_price: float = Field(0.0, ge=0, description="Price of a million prompt tokens, in any currency.")
    completion_price: float = Field(0.0, ge=0, description="Price of a million completion tokens.")
