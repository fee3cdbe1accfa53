"""Asking an OpenAI-compatible server: several requests at once, with retries and back-off.

Whatever the server does, a request ends within its timeout, an answer is bounded, and only a whole one is
kept. urllib3's `Retry` reads `Retry-After` alone: its own tries could be neither stopped by a failing request
beside them nor bounded one by one, and it does not know malformed answers.
"""

import json
import os
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from urllib3 import Retry
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.exceptions import TimeoutError as Slow

from solar_repro.data.answer_file import Answer, AnswerFile, Counts, is_count
from solar_repro.data.rephrase_by_model import Request
from solar_repro.errors import UserError
from solar_repro.safety.deadline import DeadlineAdapter, DeadlineExceeded, deadline
from solar_repro.safety.redact import add_secret_variable, one_line, shown_uri
from solar_repro.scales.math_generation import ChatServer

RETRIED = {408, 409, 425, 429}
"""HTTP statuses after which the same request may succeed; all from 500 on are others."""
LONGEST_WAIT = 60.0
"""Seconds that are waited at most before a further try, unless the server asks for more."""
LONGEST_ASKED_WAIT = 300
"""Seconds that are waited at most where the server asks for a wait (`Retry-After`)."""
LARGEST_ANSWER = 4 << 20
"""Bytes of a response that are read at most."""


class ChatClient:
    """A `Complete` that asks a server for the model that `answers` names, and keeps every answer there.

    A request that fails `attempts` times gives None; the next run asks it again. Raises UserError for a
    request that can never succeed (no such model, bad key) and for a batch of which none is answered.
    """

    def __init__(self, server: ChatServer, answers: AnswerFile) -> None:
        self._server, self._answers, self.counts = server, answers, Counts()
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, DeadlineAdapter(pool_maxsize=server.concurrency))
        self._session.headers["Accept-Encoding"] = "identity"  # what is read is as large as what was sent
        add_secret_variable(server.key_variable)
        if key := os.environ.get(server.key_variable):
            self._session.headers["Authorization"] = f"Bearer {key}"

    def __call__(self, asked: Sequence[Request]) -> Iterator[str | None]:
        missing = self._answers.missing(asked)
        self.counts.cached += len(asked) - len(missing)
        with ThreadPoolExecutor(self._server.concurrency) as pool:
            results = [pool.submit(self._ask, request) for request in missing]
            try:
                got = [result.result() for result in results]
            except BaseException:
                self._given_up.set()  # requests on their way are answered, but none is tried again
                pool.shutdown(cancel_futures=True)
                raise
        if got and not any(got):
            raise UserError(
                f"server {shown_uri(self._server.base_url)}: none of {len(got)} requests was answered "
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
        wait = 0.0
        for attempt in range(self._server.attempts):
            if self._given_up.wait(wait):
                return False
            answer, cause, asked_wait = self._attempt(body)
            if answer is not None:
                self._answers.keep(request, answer)
                with self._lock:
                    self.counts.answered += 1
                return True
            # Half of the wait is random, so that refused requests do not all come back at once.
            wait = min(self._server.first_wait * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
            wait = max(wait, asked_wait)
            with self._lock:
                self.counts.retries[cause] += 1
        with self._lock:
            self.counts.failed += 1
        return False

    def _attempt(self, body: dict[str, Any]) -> tuple[Answer | None, str, float]:
        """An answer, or else None, the cause of the failure and the seconds that the server asks to wait."""
        url = self._server.base_url.rstrip("/") + "/chat/completions"
        try:
            with (
                deadline(self._server.timeout),
                self._session.post(
                    url, json=body, timeout=self._server.timeout, stream=True, allow_redirects=False
                ) as response,
            ):
                content = _read(response)
        except (requests.Timeout, Slow, DeadlineExceeded):
            return None, "timeout", 0.0
        except (requests.RequestException, HTTPError, OSError):
            return None, "connection", 0.0
        if response.status_code in RETRIED or response.status_code >= 500:
            return None, f"status {response.status_code}", _asked_wait(response)
        if response.status_code != 200:
            self._given_up.set()
            said = one_line((content or b"").decode("utf-8", "replace"))[:200]
            raise UserError(
                f"server {shown_uri(url)} refused with status {response.status_code} ({said}); correct "
                f"the model name, the address or the key in {self._server.key_variable}"
            )
        if content is None:
            return None, "answer too large", 0.0
        answer = _answer(content)
        return answer, "malformed answer" if answer is None else "", 0.0

    def _pay(self, answer: Answer) -> None:
        self.counts.prompt_tokens += answer.prompt_tokens
        self.counts.completion_tokens += answer.completion_tokens
        self.counts.cost += answer.prompt_tokens * self._server.prompt_price / 1e6
        self.counts.cost += answer.completion_tokens * self._server.completion_price / 1e6


def _asked_wait(response: requests.Response) -> float:
    """Seconds until the time that `Retry-After` gives as a number or a date; 0 where it gives none."""
    try:
        return Retry(retry_after_max=LONGEST_ASKED_WAIT).get_retry_after(response) or 0.0
    except InvalidHeader:
        return 0.0
    except (ValueError, OverflowError):  # larger than Python's numbers and dates
        return LONGEST_ASKED_WAIT


def _read(response: requests.Response) -> bytes | None:
    """The body as it was sent; None for a body that is too large."""
    found = bytearray()
    for block in response.raw.stream(1 << 16, decode_content=False):
        found += block
        if len(found) > LARGEST_ANSWER:
            return None
    return bytes(found)


def _answer(content: bytes) -> Answer | None:
    """The answer in a response's body; None where it is malformed in any part that would be kept."""
    try:
        answer = json.loads(content)
        text = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage") or {}
        figures = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        tokens = [0 if figure is None else figure for figure in figures]
        text.encode()  # raises for what is no text, or a text that cannot be written
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
    return Answer(text, *tokens) if all(map(is_count, tokens)) else None
