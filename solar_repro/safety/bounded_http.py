"""MLflow's requests, bounded: each attempt ends in time, an answer has an end, and so has a question.

The timeouts of `requests` are for each piece of an answer, and MLflow's client reads whatever comes.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow.utils import request_utils
from requests import PreparedRequest, Response
from requests.exceptions import ConnectionError as Broken
from requests.exceptions import ContentDecodingError, ReadTimeout, RequestException
from urllib3.exceptions import DecodeError, HTTPError

from solar_repro.safety.deadline import Clock, DeadlineAdapter, Late, heeded

LARGEST_ANSWER = 64 << 20
"""Bytes of an answer that is no file: a thousand runs with a hundred settings each take 10 MiB."""
PIECE = 1 << 20
"""Bytes that must come within each timeout."""
UNHURRIED = 120.0
"""Seconds for requests that MLflow gives no timeout."""
LONGEST_ASKED_WAIT = 300.0
"""Seconds that are waited at most where a server asks for more (`Retry-After`)."""
TOO_LARGE, TOO_MANY = "is larger than", "page after page without end"
"""What errors say that the same request would meet again."""
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})")
_bounds = threading.local()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Refuse files of more bytes that this thread downloads in the block."""
    before, _bounds.file = getattr(_bounds, "file", None), size
    try:
        yield
    finally:
        _bounds.file = before


@contextmanager
def requests_up_to(number: int) -> Iterator[None]:
    """Refuse this thread's requests beyond that many: MLflow asks as long as a server names a next page."""
    before, _bounds.left = getattr(_bounds, "left", None), number
    try:
        yield
    finally:
        _bounds.left = before


def install() -> None:
    """Have the sessions of MLflow's client use this adapter."""
    if request_utils.TCPKeepAliveHTTPAdapter is not BoundedAdapter:
        request_utils.TCPKeepAliveHTTPAdapter = BoundedAdapter
        request_utils._cached_get_request_session.cache_clear()


class BoundedAdapter(DeadlineAdapter, request_utils.TCPKeepAliveHTTPAdapter):
    """The transport of MLflow's sessions, with ends."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.max_retries.retry_after_max = LONGEST_ASKED_WAIT

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        *given: Any,
        **settings: Any,
    ) -> Response:
        if (left := getattr(_bounds, "left", None)) is not None:
            if left <= 0:
                raise RequestException(f"the server gives {TOO_MANY}", request=request)
            _bounds.left = left - 1
        clock = Clock(timeout if isinstance(timeout, int | float) else UNHURRIED)
        clock.starts_anew = True
        with _told(clock), heeded(clock):
            response = super().send(request, stream, timeout, *given, **settings)
            if not stream:
                response._content = b"".join(_pieces(response, clock, _largest(request)))
                response._content_consumed = True
        if stream:
            is_file = response.status_code < 400
            size = getattr(_bounds, "file", None) if is_file else LARGEST_ANSWER
            response.iter_content = lambda *_, **__: _file(response, clock, size)
        return response


@contextmanager
def _told(clock: Clock) -> Iterator[None]:
    """What the transport raises becomes what `requests` raises."""
    try:
        yield
    except (Late, HTTPError, RequestException) as error:
        if clock.is_late:
            why = f"no whole answer, or less than {PIECE:,} bytes of it, within {clock.seconds:g} s"
            raise ReadTimeout(why) from error
        if isinstance(error, RequestException):
            raise
        raise (ContentDecodingError if isinstance(error, DecodeError) else Broken)(error) from error


def _largest(request: PreparedRequest) -> int:
    """Bytes that an answer may have; of a part of a file those that were asked for."""
    asked = _RANGE.fullmatch(request.headers.get("Range", ""))
    return int(asked[2]) - int(asked[1]) + 1 if asked else LARGEST_ANSWER


def _file(response: Response, clock: Clock, size: int | None) -> Iterator[bytes]:
    clock.start()
    try:
        with _told(clock):
            yield from _pieces(response, clock, size)
    finally:
        clock.stop()


def _pieces(response: Response, clock: Clock, largest: int | None) -> Iterator[bytes]:
    """The body; the clock starts anew whenever as many bytes have come as each timeout must bring."""
    read = counted = 0
    for piece in response.raw.stream(1 << 16, decode_content=True):
        read += len(piece)
        if largest is not None and read > largest:
            response.close()
            raise RequestException(f"the answer {TOO_LARGE} {largest:,} bytes")
        if read - counted >= PIECE:
            counted = read
            clock.start()
        yield piece
    if clock.is_late:
        raise Late
