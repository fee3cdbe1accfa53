"""Settings of the language model that writes synthetic mathematics (`data.math: generate`)."""

from pydantic import Field

from solar_repro.scales.inference_server import InferenceServer
from solar_repro.scales.section import Section


class Generation(Section):
    """A model that rephrases MATH problems and answers them, in MetaMath's way (Yu et al. 2023)."""

    model: str = Field(
        description="Name of the model on the server; without a server, the folder or hub id to load here."
    )
    server: InferenceServer | None = None
    problems: int | None = Field(
        None, ge=1, description="The most problems to use, a random sample. If it is not set, all are used."
    )
    samples: int = Field(1, ge=1, description="Number of rephrasings of each problem.")
    temperature: float = Field(0.7, ge=0, description="Sampling temperature; MetaMath used 0.7.")
    max_tokens: int = Field(1024, ge=1, description="The most tokens of an answer.")
