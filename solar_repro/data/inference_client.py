"""Asking an OpenAI-compatible server: one request, with retries and back-off.

Whatever the server does, a request ends within its timeout, an answer is bounded, and only a whole one is
taken. urllib3's `Retry` reads `Retry-After` alone: its own tries could be neither stopped by a failing
request beside them nor bounded one by one, and it does not know malformed answers.
"""

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import requests
from urllib3 import Retry
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.exceptions import TimeoutError as Slow

from solar_repro.errors import UserError
from solar_repro.safety.deadline import DeadlineAdapter, DeadlineExceeded, deadline
from solar_repro.safety.redact import add_secret_variable, one_line, shown_uri
from solar_repro.scales.inference_server import InferenceServer

RETRIED = {408, 409, 425, 429}
"""HTTP statuses after which the same request may succeed; all from 500 on are others."""
LONGEST_WAIT = 60.0
"""Seconds that are waited at most before a further try, unless the server asks for more."""
LONGEST_ASKED_WAIT = 300
"""Seconds that are waited at most where the server asks for a wait (`Retry-After`)."""
LARGEST_ANSWER = 4 << 20
"""Bytes of a response that are read at most."""
MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""What reading an answer of another shape raises."""

T = TypeVar("T")


class InferenceClient:
    """Asks one server; several threads may use it. `retries` counts failed attempts by cause."""

    def __init__(self, server: InferenceServer) -> None:
        self.server = server
        self.retries: Counter[str] = Counter()
        self.given_up = threading.Event()
        """Set it where no request is to be tried again."""
        self._lock = threading.Lock()
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, DeadlineAdapter(pool_maxsize=server.concurrency))
        self._session.headers["Accept-Encoding"] = "identity"  # what is read is as large as what was sent
        add_secret_variable(server.key_variable)
        if key := os.environ.get(server.key_variable):
            self._session.headers["Authorization"] = f"Bearer {key}"

    def ask(self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]) -> T | None:
        """Return what `read` makes of the answer's JSON; None where `attempts` tries have failed.

        Without a body the request is a GET. `read` raises one of MALFORMED for an answer of another shape,
        which is asked again. UserError for a request that can never succeed (no such model, a bad key).
        """
        wait = 0.0
        for attempt in range(self.server.attempts):
            if self.given_up.wait(wait):
                return None
            answer, cause, asked_wait = self._attempt(path, body, read)
            if answer is not None:
                return answer
            # Half of the wait is random, so that refused requests do not all come back at once.
            wait = min(self.server.first_wait * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
            wait = max(wait, asked_wait)
            with self._lock:
                self.retries[cause] += 1
        return None

    def _attempt(
        self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]
    ) -> tuple[T | None, str, float]:
        """An answer, or else None, the cause of the failure and the seconds that the server asks to wait."""
        url, timeout = self.server.base_url.rstrip("/") + path, self.server.timeout
        method = "GET" if body is None else "POST"
        try:
            with (
                deadline(timeout),
                self._session.request(
                    method, url, json=body, timeout=timeout, stream=True, allow_redirects=False
                ) as response,
            ):
                content = _body(response)
        except (requests.Timeout, Slow, DeadlineExceeded):
            return None, "timeout", 0.0
        except (requests.RequestException, HTTPError, OSError):
            return None, "connection", 0.0
        if response.status_code in RETRIED or response.status_code >= 500:
            return None, f"status {response.status_code}", asked_wait(response)
        if response.status_code != 200:
            self.given_up.set()
            said = one_line((content or b"").decode("utf-8", "replace"))[:200]
            raise UserError(
                f"server {shown_uri(url)} refused with status {response.status_code} ({said}); correct "
                f"the model name, the address or the key in {self.server.key_variable}"
            )
        if content is None:
            return None, "answer too large", 0.0
        try:
            return read(json.loads(content)), "", 0.0
        except MALFORMED:
            return None, "malformed answer", 0.0


def asked_wait(response: requests.Response) -> float:
    """Seconds until the time that `Retry-After` gives as a number or a date; 0 where it gives none."""
    try:
        reader = Retry(retry_after_max=LONGEST_ASKED_WAIT)
        return reader.get_retry_after(response) or 0.0  # type: ignore[arg-type]  # it reads headers alone
    except InvalidHeader:
        return 0.0
    except (ValueError, OverflowError):  # larger than Python's numbers and dates
        return LONGEST_ASKED_WAIT


def _body(response: requests.Response) -> bytes | None:
    """The body as it was sent; None for a body that is too large."""
    found = bytearray()
    for block in response.raw.stream(1 << 16, decode_content=False):
        found += block
        if len(found) > LARGEST_ANSWER:
            return None
    return bytes(found)
