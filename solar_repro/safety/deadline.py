"""HTTP requests with a deadline for the whole: the timeouts of urllib3 and `requests` limit each read."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_current = threading.local()


class DeadlineExceeded(Exception):
    """A request was not answered in time."""


class Clock:
    """The remaining time of one thread's request, and the socket that is shut down when it is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_late = False
        self.restarts_per_attempt = False
        """Whether each attempt gets the whole time anew, counted from when its request is sent."""
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Start or restart the clock."""
        self.reset()
        self._timer = threading.Timer(self.seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def reset(self) -> None:
        """Stop the clock and forget that it ran out."""
        self.stop()
        self.is_late = False

    def watch(self, used: socket.socket) -> None:
        """Name the socket to shut down; raises DeadlineExceeded if the time is over already."""
        self._socket = used  # the connection forgets its own while the answer is still read from it
        if self.is_late:
            raise DeadlineExceeded

    def stop(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self) -> None:
        self.is_late = True
        if self._socket is not None:
            with suppress(OSError):  # the socket may be closed already
                self._socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Shut down the connection of this thread's request after `seconds`, and raise DeadlineExceeded."""
    clock = Clock(seconds)
    clock.start()
    with obeying(clock):
        yield


@contextmanager
def obeying(clock: Clock) -> Iterator[None]:
    """Apply the clock to this thread's requests in the block; raises DeadlineExceeded once it has run out."""
    _current.clock = clock
    try:
        yield
    except Exception as error:
        if clock.is_late:
            raise DeadlineExceeded from error
        raise
    finally:
        clock.stop()
        _current.clock = None
    if clock.is_late:
        raise DeadlineExceeded


class _ReportingConnection:
    """Report the open socket of a request to its clock."""

    def request(self, *arguments: Any, **settings: Any) -> None:
        clock = getattr(_current, "clock", None)
        if clock and clock.restarts_per_attempt:
            clock.reset()
        elif clock:
            if self.sock is None:
                self.connect()
            clock.watch(self.sock)
        super().request(*arguments, **settings)
        if clock and clock.restarts_per_attempt:
            clock.watch(self.sock)
            clock.start()


class _Connection(_ReportingConnection, HTTPConnection):
    pass


class _SecureConnection(_ReportingConnection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class DeadlineAdapter(HTTPAdapter):
    """A transport for a session of `requests` that obeys `deadline`."""

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        super().init_poolmanager(*arguments, **settings)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *arguments: Any, **settings: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **settings)
        manager.pool_classes_by_scheme = _POOLS
        return manager
