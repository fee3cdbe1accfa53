"""Asking an OpenAI-compatible server to rephrase: several requests at once, each answer kept as it comes."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from solar_repro.data.answer_file import Answer, AnswerFile, Counts, is_count
from solar_repro.data.inference_client import InferenceClient
from solar_repro.data.rephrase_by_model import Request
from solar_repro.errors import UserError
from solar_repro.safety.redact import shown_uri
from solar_repro.scales.inference_server import InferenceServer


class ChatClient:
    """A `Complete` that asks a server for the model that `answers` names, and keeps every answer there.

    A request that fails `attempts` times gives None; the next run asks it again. Raises UserError for a
    request that can never succeed (no such model, bad key) and for a batch of which none is answered.
    """

    def __init__(self, server: InferenceServer, answers: AnswerFile) -> None:
        self._client, self._answers = InferenceClient(server), answers
        self.counts = Counts(retries=self._client.retries)
        self._lock = threading.Lock()

    def __call__(self, asked: Sequence[Request]) -> Iterator[str | None]:
        server = self._client.server
        missing = self._answers.missing(asked)
        self.counts.cached += len(asked) - len(missing)
        with ThreadPoolExecutor(server.concurrency) as pool:
            results = [pool.submit(self._ask, request) for request in missing]
            try:
                got = [result.result() for result in results]
            except BaseException:
                self._client.given_up.set()  # requests on their way are answered, but none is tried again
                pool.shutdown(cancel_futures=True)
                raise
        if got and not any(got):
            raise UserError(
                f"server {shown_uri(server.base_url)}: none of {len(got)} requests was answered "
                f"({dict(self.counts.retries)}); earlier answers are kept in {self._answers.path}; "
                "run the command again"
            )
        for request in asked:
            answer = self._answers.get(request)
            if answer is not None:
                self._pay(answer)
            yield None if answer is None else answer.text

    def _ask(self, request: Request) -> bool:
        """Ask until there is an answer, which is kept; False where a request is given up."""
        body = {
            "model": self._answers.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": request.temperature,
            "max_tokens": self._answers.max_tokens,
            "seed": request.seed + request.sample,
        }
        answer = self._client.ask("/chat/completions", body, read_answer)
        if answer is not None:
            self._answers.keep(request, answer)
        with self._lock:
            if answer is not None:
                self.counts.answered += 1
            elif not self._client.given_up.is_set():
                self.counts.failed += 1
        return answer is not None

    def _pay(self, answer: Answer) -> None:
        server = self._client.server
        self.counts.prompt_tokens += answer.prompt_tokens
        self.counts.completion_tokens += answer.completion_tokens
        self.counts.cost += answer.prompt_tokens * server.prompt_price / 1e6
        self.counts.cost += answer.completion_tokens * server.completion_price / 1e6


def read_answer(content: Any) -> Answer:
    """The answer in a response's JSON; one of MALFORMED for a part that makes no sense."""
    text = content["choices"][0]["message"]["content"]
    usage = content.get("usage") or {}
    figures = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    tokens = [0 if figure is None else figure for figure in figures]
    text.encode()  # raises for what is no text, or a text that cannot be written
    if not all(map(is_count, tokens)):
        raise ValueError("a number of tokens makes no sense")
    return Answer(text, *tokens)
