"""Asking an OpenAI-compatible server: several requests at once, retries, and a file of all answers.

An answer is on disk before it is used, so a run that is killed asks only for what it has not got: nothing is
lost, and nothing that was received is paid for again.
"""

import hashlib
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from solar_repro.data.generate import Request
from solar_repro.errors import UserError

RETRIED = {408, 409, 425, 429}
"""HTTP statuses, beside all of 500 and above, after which the same request may succeed."""
LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class Server:
    base_url: str
    """Up to and with the version: `http://localhost:8000/v1`."""
    model: str
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; none is sent where it is unset."""
    concurrency: int = 8
    attempts: int = 6
    timeout: float = 120.0
    """Seconds a request may take."""
    first_wait: float = 1.0
    """Seconds before the second attempt; doubled for each further one."""
    max_tokens: int = 1024
    price_per_million: tuple[float, float] = (0.0, 0.0)
    """Of prompt and completion tokens."""


@dataclass
class Counts:
    cached: int = 0
    answered: int = 0
    failed: int = 0
    retries: Counter = field(default_factory=Counter)
    """By cause."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Tokens of all answers in the file that this run used, whenever they were paid."""
    cost: float = 0.0


class ChatClient:
    """A `Complete` that asks a server and keeps every answer in `folder/answers.jsonl`.

    A request that fails for good (no such model, bad key) or a whole batch without any answer: UserError. A
    request that fails `attempts` times gives None and is asked again by the next run.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        import requests

        self._server, self.counts = server, Counts()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "answers.jsonl"
        self._answers = _read_answers(self._file)
        self._lock = threading.Lock()
        self._refused = threading.Event()
        self._session = requests.Session()
        self._session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=server.concurrency))
        if key := os.environ.get(server.key_variable):
            self._session.headers["Authorization"] = f"Bearer {key}"

    def __call__(self, requests: Sequence[Request]) -> Iterator[str | None]:
        keys = [self._key(request) for request in requests]
        missing = {
            key: request for key, request in zip(keys, requests, strict=True) if key not in self._answers
        }
        self.counts.cached += len(requests) - len(missing)
        with ThreadPoolExecutor(self._server.concurrency) as pool:
            results = [pool.submit(self._ask, key, request) for key, request in missing.items()]
            try:
                got = [result.result() for result in results]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if got and not any(got):
            raise UserError(
                f"server {self._server.base_url}: none of {len(got)} requests was answered "
                f"({dict(self.counts.retries)}); what it answered before is kept in {self._file}; run again"
            )
        for key in keys:
            answer = self._answers.get(key)
            if answer is not None:
                self._pay(answer)
            yield None if answer is None else answer["text"]

    def _key(self, request: Request) -> str:
        asked = asdict(request) | {"model": self._server.model, "max_tokens": self._server.max_tokens}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def _ask(self, key: str, request: Request) -> bool:
        body = {
            "model": self._server.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": request.temperature,
            "max_tokens": self._server.max_tokens,
            "seed": request.seed + request.sample,
        }
        wait = 0.0
        for attempt in range(self._server.attempts):
            time.sleep(wait)
            if self._refused.is_set():
                return False
            answer, cause, asked_wait = self._attempt(body)
            if answer is not None:
                self._keep(key, answer)
                return True
            # Half of the wait is random, so that refused requests do not all come back at once.
            wait = min(self._server.first_wait * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
            wait = max(wait, asked_wait)
            with self._lock:
                self.counts.retries[cause] += 1
        with self._lock:
            self.counts.failed += 1
        return False

    def _attempt(self, body: dict[str, Any]) -> tuple[dict[str, Any] | None, str, float]:
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
            self._refused.set()
            said = " ".join(response.text[:200].split())
            raise UserError(
                f"server {url} refused with status {response.status_code} ({said}); mend the model name, the "
                f"address or the key in {self._server.key_variable}"
            )
        try:
            answer = response.json()
            text = answer["choices"][0]["message"]["content"]
            usage = answer.get("usage") or {}
            tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None, "malformed answer", 0.0
        if not isinstance(text, str):
            return None, "malformed answer", 0.0
        return {"text": text, "prompt_tokens": tokens[0], "completion_tokens": tokens[1]}, "", 0.0

    def _keep(self, key: str, answer: dict[str, Any]) -> None:
        line = json.dumps({"key": key} | answer, ensure_ascii=False) + "\n"
        with self._lock:
            with self._file.open("ab") as out:
                out.write(line.encode("utf-8"))
                out.flush()
                os.fsync(out.fileno())
            self._answers[key] = answer
            self.counts.answered += 1

    def _pay(self, answer: dict[str, Any]) -> None:
        prices = self._server.price_per_million
        self.counts.prompt_tokens += answer["prompt_tokens"]
        self.counts.completion_tokens += answer["completion_tokens"]
        self.counts.cost += answer["prompt_tokens"] * prices[0] / 1e6
        self.counts.cost += answer["completion_tokens"] * prices[1] / 1e6


def _read_answers(file: Path) -> dict[str, dict[str, Any]]:
    """Answers by request; a last line that a kill cut short is taken off the file."""
    if not file.exists():
        return {}
    answers, whole = {}, 0
    with file.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            answer = json.loads(line)
            answers[answer.pop("key")] = answer
            whole += len(line)
    if whole < file.stat().st_size:
        os.truncate(file, whole)
    return answers
