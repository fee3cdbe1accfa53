"""Asking an OpenAI-compatible server: several requests at once, with retries and back-off."""

import os
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from solar_repro.data.answer_file import Answer, AnswerFile, Counts
from solar_repro.data.generate import Request
from solar_repro.data.settings import ChatServer
from solar_repro.errors import UserError

RETRIED = {408, 409, 425, 429}
"""HTTP statuses, beside all of 500 and above, after which the same request may succeed."""
LONGEST_WAIT = 60.0


class ChatClient:
    """A `Complete` that asks a server for the model that `answers` names, and keeps every answer there.

    A request that fails for good (no such model, bad key) or a whole batch without any answer: UserError. A
    request that fails `attempts` times gives None and is asked again by the next run.
    """

    def __init__(self, server: ChatServer, answers: AnswerFile) -> None:
        import requests

        self._server, self._answers, self.counts = server, answers, Counts()
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._session = requests.Session()
        self._session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=server.concurrency))
        if key := os.environ.get(server.key_variable):
            self._session.headers["Authorization"] = f"Bearer {key}"

    def __call__(self, requests: Sequence[Request]) -> Iterator[str | None]:
        missing = self._answers.missing(requests)
        self.counts.cached += len(requests) - len(missing)
        with ThreadPoolExecutor(self._server.concurrency) as pool:
            results = [pool.submit(self._ask, request) for request in missing]
            try:
                got = [result.result() for result in results]
            except BaseException:
                self._given_up.set()  # requests that are on their way are answered, none is tried again
                pool.shutdown(cancel_futures=True)
                raise
        if got and not any(got):
            raise UserError(
                f"server {self._server.base_url}: none of {len(got)} requests was answered "
                f"({dict(self.counts.retries)}); what it answered before is kept in {self._answers.path}; "
                "run again"
            )
        for request in requests:
            answer = self._answers.get(request)
            if answer is not None:
                self._pay(answer)
            yield None if answer is None else answer.text

    def _ask(self, request: Request) -> bool:
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
        """An answer; or None, the cause, and the seconds the server wants us to wait."""
        import requests

        url = self._server.base_url.rstrip("/") + "/chat/completions"
        try:
            response = self._session.post(url, json=body, timeout=self._server.timeout)
        except requests.Timeout:
            return None, "timeout", 0.0
        except requests.RequestException:
            return None, "connection", 0.0
        if response.status_code in RETRIED or response.status_code >= 500:
            after = response.headers.get("Retry-After", "")
            return None, f"status {response.status_code}", float(after) if after.isdigit() else 0.0
        if response.status_code != 200:
            self._given_up.set()
            said = " ".join(response.text[:200].split())
            raise UserError(
                f"server {url} refused with status {response.status_code} ({said}); mend the model name, the "
                f"address or the key in {self._server.key_variable}"
            )
        try:
            answer = response.json()
            text = answer["choices"][0]["message"]["content"]
            text.encode()  # no text, or one that cannot be written
            usage = answer.get("usage") or {}
            tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None, "malformed answer", 0.0
        return Answer(text, *tokens), "", 0.0

    def _pay(self, answer: Answer) -> None:
        self.counts.prompt_tokens += answer.prompt_tokens
        self.counts.completion_tokens += answer.completion_tokens
        self.counts.cost += answer.prompt_tokens * self._server.prompt_price / 1e6
        self.counts.cost += answer.completion_tokens * self._server.completion_price / 1e6
