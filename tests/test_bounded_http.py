"""A tracking server that drips, sends without end or never stops naming a next page costs a bounded time."""

import gzip
import itertools
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from solar_repro import bounded_http
from solar_repro.bounded_http import install, requests_up_to
from solar_repro.errors import UserError
from solar_repro.tracking_server import can_go_on, connect
from tests.tracking_server import serving

HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "status line": (b"", b"H"),
    "header": (HEAD + b"X-Long: ", b"x"),
    "body": (HEAD + b"Content-Length: 1000000\r\n\r\n", b"{"),
    "body without length": (HEAD + b"Connection: close\r\n\r\n", b" "),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "refusal": (b"HTTP/1.1 503 No\r\nContent-Length: 1000000\r\n\r\n", b"."),
}


def drip(handler, start, piece):
    """Send a start, then a piece now and then for as long as somebody listens."""
    handler.wfile.write(start)
    while True:
        handler.wfile.write(piece)
        handler.wfile.flush()
        time.sleep(0.02)


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0.2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(
        "solar_repro.tracking_server._IMPATIENT",
        {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
    )
    install()


@pytest.mark.parametrize("part", DRIPS)
def test_a_server_that_drips_is_given_up_at_the_timeout(part, hasty, monkeypatch):
    with serving(lambda handler: drip(handler, *DRIPS[part])) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        with pytest.raises(UserError, match=rf"tracking server {server.uri} does not answer \("):
            connect()
