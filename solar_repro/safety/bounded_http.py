"""Bounds for MLflow's requests: on the time of an attempt, the size of an answer and the number of requests.

Retries are urllib3's own. Its and `requests`' timeouts limit each read from the socket, even
`Timeout(total=)`, so a server that sends a byte now and then is never late; and MLflow's client reads answers
of any size.
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

from solar_repro.safety.deadline import Clock, DeadlineAdapter, DeadlineExceeded, obeying

MAX_ANSWER_BYTES = 64 << 20
"""Largest answer that is not a file: a thousand runs with a hundred settings each take 10 MiB."""
PROGRESS_BYTES = 1 << 20
"""Bytes that must arrive within each timeout."""
DEFAULT_TIMEOUT = 120.0
"""Seconds for requests to which MLflow gives no timeout."""
MAX_RETRY_AFTER = 300.0
"""Most seconds to wait when a server asks for a delay (`Retry-After`)."""
TOO_LARGE, TOO_MANY = "is larger than", "page after page without end"
"""Texts of errors that the same request would meet again, so that it is not repeated."""
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})")
_bounds = threading.local()


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Refuse larger files than `size` bytes that this thread downloads in the block."""
    before, _bounds.file = getattr(_bounds, "file", None), size
    try:
        yield
    finally:
        _bounds.file = before


@contextmanager
def limit_requests(number: int) -> Iterator[None]:
    """Refuse more than `number` requests of this thread; MLflow asks while a server names a next page."""
    before, _bounds.left = getattr(_bounds, "left", None), number
    try:
        yield
    finally:
        _bounds.left = before


def install() -> None:
    """Make the sessions of MLflow's client use `BoundedAdapter`."""
    if request_utils.TCPKeepAliveHTTPAdapter is not BoundedAdapter:
        request_utils.TCPKeepAliveHTTPAdapter = BoundedAdapter
        request_utils._cached_get_request_session.cache_clear()


class BoundedAdapter(DeadlineAdapter, request_utils.TCPKeepAliveHTTPAdapter):
    """The transport of MLflow's sessions, with the bounds of this module."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.max_retries.retry_after_max = MAX_RETRY_AFTER

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
        clock = Clock(timeout if isinstance(timeout, int | float) else DEFAULT_TIMEOUT)
        clock.restarts_per_attempt = True
        with _as_requests_errors(clock), obeying(clock):
            response = super().send(request, stream, timeout, *given, **settings)
            if not stream:
                response._content = b"".join(_pieces(response, clock, _largest(request)))
                response._content_consumed = True
        if stream:
            is_file = response.status_code < 400
            size = getattr(_bounds, "file", None) if is_file else MAX_ANSWER_BYTES
            response.iter_content = lambda *_, **__: _file(response, clock, size)
        return response


@contextmanager
def _as_requests_errors(clock: Clock) -> Iterator[None]:
    """Turn what the transport raises into what `requests` raises."""
    try:
        yield
    except (DeadlineExceeded, HTTPError, RequestException) as error:
        if clock.is_late:
            why = f"no whole answer, or less than {PROGRESS_BYTES:,} bytes of it, within {clock.seconds:g} s"
            raise ReadTimeout(why) from error
        if isinstance(error, RequestException):
            raise
        raise (ContentDecodingError if isinstance(error, DecodeError) else Broken)(error) from error


def _largest(request: PreparedRequest) -> int:
    """Return the most bytes that an answer may have; for a part of a file, the bytes asked for."""
    asked = _RANGE.fullmatch(request.headers.get("Range", ""))
    return int(asked[2]) - int(asked[1]) + 1 if asked else MAX_ANSWER_BYTES


def _file(response: Response, clock: Clock, size: int | None) -> Iterator[bytes]:
    clock.start()
    try:
        with _as_requests_errors(clock):
            yield from _pieces(response, clock, size)
    finally:
        clock.stop()


def _pieces(response: Response, clock: Clock, largest: int | None) -> Iterator[bytes]:
    """Yield the body; the clock restarts whenever PROGRESS_BYTES have arrived."""
    read = counted = 0
    for piece in response.raw.stream(1 << 16, decode_content=True):
        read += len(piece)
        if largest is not None and read > largest:
            response.close()
            raise RequestException(f"the answer {TOO_LARGE} {largest:,} bytes")
        if read - counted >= PROGRESS_BYTES:
            counted = read
            clock.start()
        yield piece
    if clock.is_late:
        raise DeadlineExceeded
