"""A tracking server that drips, sends without end or always names a next page costs bounded time."""

import gzip
import itertools
import json
import time

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st

from solar_repro.errors import UserError
from solar_repro.safety import bounded_http
from solar_repro.safety.bounded_http import MAX_RETRY_AFTER, limit_file_size
from solar_repro.tracking.reader import Reader
from solar_repro.tracking.server import connect, server_errors
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
def served(monkeypatch):
    """A server that a test has answer as it likes; nothing is tried a second time."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("solar_repro.tracking.server._SHORT_TIMEOUTS", {})
    with serving(lambda handler: {}) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        yield server


@pytest.fixture
def hasty(served, monkeypatch):
    """MLflow's timeouts are whole seconds; here, after a first connection, every clock is faster."""
    connect()

    class Fast(bounded_http.Clock):
        def __init__(self, seconds):
            super().__init__(0.2)

    monkeypatch.setattr(bounded_http, "Clock", Fast)


@pytest.mark.parametrize("part", DRIPS)
def test_a_server_that_drips_is_given_up(served, hasty, part):
    served.answer = lambda handler: drip(handler, *DRIPS[part])
    with pytest.raises(UserError, match=rf"tracking server {served.uri} does not answer \("):
        connect()


def test_a_download_that_drips_is_given_up(served, hasty, tmp_path, monkeypatch):
    from solar_repro.tracking.artifacts import fetch

    served.answer = lambda handler: drip(handler, *DRIPS["body"])
    with pytest.raises(requests.Timeout, match="no whole answer"):
        fetch(f"{served.uri}/artifacts", "model.safetensors", tmp_path / "file", 10**9)
    assert not (tmp_path / "file").exists()


def endless(handler):
    handler.wfile.write(HEAD + b"\r\n")
    while True:
        handler.wfile.write(b" " * 65536)


def packed(handler):
    content = gzip.compress(b" " * 10**7)
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(content)
    handler.wfile.write(head + content)


@pytest.mark.parametrize("answer", [endless, packed])
def test_an_answer_without_end_is_not_read_to_it(served, answer, monkeypatch):
    monkeypatch.setattr(bounded_http, "MAX_ANSWER_BYTES", 100_000)
    served.answer = answer
    with pytest.raises(UserError, match=r"does not answer \(.*is larger than 100,000 bytes"):
        connect()


def test_a_file_is_not_read_beyond_what_its_manifest_says(served, tmp_path):
    from solar_repro.tracking.artifacts import ArtifactMissing, fetch

    connect()
    served.answer = endless
    with pytest.raises(
        ArtifactMissing, match=r"artifact config.json: cannot be had .*is larger than 500 bytes"
    ):
        fetch(f"{served.uri}/artifacts", "config.json", tmp_path / "file", 500)
    assert not (tmp_path / "file").exists()


def test_an_error_of_a_download_is_not_read_without_end(served, tmp_path, monkeypatch):
    from solar_repro.tracking.artifacts import ArtifactMissing, fetch

    monkeypatch.setattr(bounded_http, "MAX_ANSWER_BYTES", 1000)
    connect()
    served.answer = lambda handler: handler.reply(404, b"x" * 5000)
    with pytest.raises(ArtifactMissing), limit_file_size(10**9):
        fetch(f"{served.uri}/artifacts", "config.json", tmp_path / "file", 10**9)


@pytest.mark.parametrize("asked", ["1000000000", "9" * 5000, "soon"])
def test_a_server_may_ask_for_so_long_a_wait_and_no_longer(served, asked, monkeypatch):
    connect()
    waits = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    served.answer = lambda handler: handler.reply(429, b"", Retry_After=asked)
    with pytest.raises(UserError):
        connect()
    assert max(waits, default=0) <= MAX_RETRY_AFTER


def experiment(number):
    return {"experiment_id": str(number), "name": f"e{number}", "lifecycle_stage": "active"}


def run(number):
    info = {"run_id": f"r{number}", "experiment_id": "0", "status": "FINISHED", "lifecycle_stage": "active"}
    return {"info": info, "data": {}}


def paged(what, make, same):
    """Answers each question with one more of `what`, or always with the same one, and a next page."""
    numbers = itertools.count()

    def answer(handler):
        number = next(numbers)
        if what == "runs" and "experiments" in handler.path:
            return {"experiments": [experiment(0)]}
        return {what: [make(0 if same else number)], "next_page_token": f"page{number}"}

    return answer


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("what", "make"), [("experiments", experiment), ("runs", run)])
def test_pages_without_end_are_one_line(served, what, make, same, monkeypatch):
    monkeypatch.setattr("solar_repro.tracking.server.MAX_PAGES", 20)
    reader = Reader(connect())
    served.answer = paged(what, make, same)
    with pytest.raises(UserError, match=rf"{served.uri}: gives page after page without end; set MLFLOW_TR"):
        reader.search("", everywhere=True)
    assert len(served.asked) < 50


def test_pages_that_come_too_slowly_are_one_line(served, monkeypatch):
    reader = Reader(connect())
    served.answer = paged("runs", run, False)
    hours = itertools.count()
    monkeypatch.setattr("solar_repro.tracking.server.time.monotonic", lambda: next(hours) * 3600.0)
    with pytest.raises(UserError, match="page after page without end"):
        reader.search()
    assert len(served.asked) < 10


def test_a_metrics_history_without_end_is_refused(served, tmp_path):
    reader = Reader(connect())
    metric = {"key": "loss", "value": 1.0, "timestamp": 1, "step": 1}
    numbers = itertools.count()
    served.answer = lambda handler: {"metrics": [metric], "next_page_token": f"page{next(numbers)}"}
    with pytest.raises(UserError, match="page after page without end") as said, server_errors(tmp_path):
        reader.history("r0", "loss")
    assert "goes on" not in str(said.value)
    assert len(served.asked) < 50


KEYS = ["runs", "info", "data", "tags", "metrics", "params", "key", "value", "run_id", "status", "run"]
KEYS += ["experiments", "experiment_id", "name", "error_code", "message", "next_page_token", "end_time"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
BODY = JSON.map(lambda value: json.dumps(value).encode()) | st.binary()


@pytest.fixture(scope="module")
def module_served():
    with pytest.MonkeyPatch.context() as patch, serving(lambda handler: {}) as server:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setattr("solar_repro.tracking.server._SHORT_TIMEOUTS", {})
        patch.setattr("solar_repro.tracking.server.MAX_PAGES", 5)
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        server.reader = Reader(connect())
        yield server


@settings(max_examples=20)
@given(st.sampled_from([200, 200, 200, 400, 404, 500]), BODY)
@example(200, b"[" * 100_000)
@example(200, b'{"runs": ' + b"[" * 5000 + b"]" * 5000 + b"}")
@example(404, b'{"error_code": 5, "message": []}')
@example(200, b'{"experiments": [{"experiment_id": "0"}], "runs": [{}]}')
def test_whatever_a_server_answers_is_one_line(module_served, tmp_path_factory, status, content):
    module_served.answer = lambda handler: handler.reply(status, content)
    reader = module_served.reader
    for ask in (
        connect,
        lambda: reader.runs_of("a" * 64),
        lambda: reader.candidates("a" * 64),
        lambda: reader.knows("a" * 8),
        lambda: reader.has("r0"),
        lambda: reader.history("r0", "loss"),
        lambda: reader.search(experiment="e"),
    ):
        try:
            with server_errors(tmp_path_factory.getbasetemp()):
                ask()
        except UserError:
            pass  # nothing else may come
