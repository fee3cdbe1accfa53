"""Generated answers from an OpenAI-compatible server, such as `vllm serve` in an environment of its own.

The harness's prompts are tokenised and cut here, and sent as token ids; the server continues them greedily.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from solar_repro.data.inference_client import InferenceClient
from solar_repro.errors import UserError
from solar_repro.h6.adapter import SharedPrefixLM
from solar_repro.safety.redact import one_line, shown_uri
from solar_repro.scales.inference_server import InferenceServer

MOST_STOPS = 4
"""Stop strings that OpenAI's schema allows. An answer is cut at the others when it has come."""


class GenerationServer:
    """Answers the harness's `generate_until` requests by a server that has the model."""

    def __init__(self, server: InferenceServer, model: Path | str) -> None:
        """Ask the server which models it has; UserError unless `model` (folder or hub id) is one of them."""
        self._client = InferenceClient(server)
        self._address = shown_uri(server.base_url)
        served = self._client.ask("/models", None, _models)
        if served is None:
            raise UserError(
                f"server {self._address}: does not answer ({dict(self._client.retries)}); start it with: "
                f"vllm serve {model}"
            )
        self.name = next((name for name, place in served if _is(model, name) or _is(model, place)), "")
        """The server's name of the model."""
        if not self.name:
            names = one_line(", ".join(name for name, _ in served))[:200] or "no model"
            raise UserError(
                f"server {self._address}: has {names}, not {model}; start it with: vllm serve {model}"
            )

    def generate_until(self, requests: Sequence[Instance], prompts: SharedPrefixLM) -> list[str]:
        """As the harness: greedy text up to the first stop string, behind `prompts`' tokens of each request.

        Each answer goes to the cache hook of `prompts` as it comes. UserError where one does not come.
        """
        bodies, stops = zip(*(self._request(request, prompts) for request in requests), strict=True)
        answers: dict[int, str] = {}
        with ThreadPoolExecutor(self._client.server.concurrency) as pool:
            asked = {
                pool.submit(self._client.ask, "/completions", body, _text): number
                for number, body in enumerate(bodies)
            }
            try:
                for future in as_completed(asked):
                    number, text = asked[future], future.result()
                    if text is not None:
                        answers[number] = postprocess_generated_text(text, stops[number], None)
                        prompts.cache_hook.add_partial(
                            "generate_until", requests[number].args, answers[number]
                        )
            except BaseException:
                self._client.given_up.set()
                pool.shutdown(cancel_futures=True)
                raise
        if missing := len(requests) - len(answers):
            raise UserError(
                f"server {self._address}: {missing} of {len(requests)} requests were not answered "
                f"({dict(self._client.retries)}); the other answers are kept; run the command again"
            )
        return [answers[number] for number in range(len(requests))]

    def _request(self, request: Instance, prompts: SharedPrefixLM) -> tuple[dict[str, Any], list[str]]:
        """The body of a request, and all strings that end its answer."""
        settings = normalize_gen_kwargs(request.args[1], prompts.max_gen_toks)
        if settings.get("do_sample") or settings.get("temperature"):
            raise UserError(f"{request.task_name}: samples its answers, which a server is not asked for here")
        end = prompts.tok_decode(prompts.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(settings["until"], eos=end)
        (tokens,) = prompts.prompt_tokens([request.args[0]], settings["max_gen_toks"])
        return {
            "model": self.name,
            "prompt": tokens.tolist(),
            "max_tokens": settings["max_gen_toks"],
            "temperature": 0,
            "stop": until[:MOST_STOPS],
        }, until


def _text(content: Any) -> str:
    text: str = content["choices"][0]["text"]
    text.encode()  # raises for what is no text, or a text that cannot be written
    return text


def _models(content: Any) -> list[tuple[str, str]]:
    """The server's models: their names, and where they were loaded from, if it says so."""
    return [(str(one["id"]), str(one.get("root") or one["id"])) for one in content["data"]]


def _is(model: Path | str, place: str) -> bool:
    """Whether a server's place is the model; a folder may lie elsewhere there, but its name holds its key."""
    return place == str(model) or (Path(model).is_dir() and Path(place).name == Path(model).name)
