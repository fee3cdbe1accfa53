"""A language model's server that is broken or hostile: it costs a bounded time and memory, and no secret."""

import json
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from requests import Response

from solar_repro.data import inference_client
from solar_repro.data.answer_file import Answer, AnswerFile
from solar_repro.data.chat_client import ChatClient, read_answer
from solar_repro.data.inference_client import LONGEST_ASKED_WAIT, MALFORMED, asked_wait
from solar_repro.data.rephrase_by_model import Request
from solar_repro.errors import UserError
from solar_repro.scales.explain import explain
from solar_repro.scales.inference_server import InferenceServer
from tests.model_server import serving

REQUEST = Request("what?", 0, 0, 0.0)


@pytest.fixture
def served():
    with serving(lambda prompt: "that") as server:
        yield server


def ask(served, folder, **changes):
    settings = {"attempts": 1, "timeout": 30.0, "first_wait": 0.0} | changes
    server = InferenceServer(base_url=served.url, **settings)
    return ChatClient(server, AnswerFile(folder, "m", 8))


def drip(handler, start: bytes, piece: bytes) -> None:
    """Send a start, then a piece now and then for as long as somebody listens."""
    handler.wfile.write(start)
    while True:
        handler.wfile.write(piece)
        handler.wfile.flush()
        time.sleep(0.05)


HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "status line": (b"", b"H"),
    "header": (HEAD + b"X-Long: ", b"x"),
    "body": (HEAD + b"Content-Length: 1000000\r\n\r\n", b"{"),
    "body without length": (HEAD + b"Connection: close\r\n\r\n", b" "),
    "length of a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "refusal": (b"HTTP/1.1 401 No\r\nContent-Length: 1000000\r\n\r\n", b"."),
    "redirection": (b"HTTP/1.1 307 There\r\nLocation: /v2\r\nContent-Length: 1000000\r\n\r\n", b"."),
}


@pytest.mark.parametrize("part", DRIPS)
def test_a_server_that_drips_is_given_up(served, tmp_path, part):
    served.fault = lambda handler, prompt, count: drip(handler, *DRIPS[part])
    client = ask(served, tmp_path, timeout=0.5)
    with pytest.raises(UserError, match=r"none of 1 requests was answered \(\{'timeout': 1\}\)"):
        list(client([REQUEST]))


@pytest.mark.parametrize("status", [200, 401, 503])
def test_a_body_without_end_is_not_read_to_it(served, tmp_path, status, monkeypatch):
    monkeypatch.setattr(inference_client, "LARGEST_ANSWER", 100_000)

    def endless(handler, prompt, count):
        handler.wfile.write(b"HTTP/1.1 %d X\r\n\r\n" % status)
        while True:
            handler.wfile.write(b"x" * 65536)

    served.fault = endless
    with pytest.raises(UserError, match=r"none of 1 requests was answered|refused with status 401"):
        list(ask(served, tmp_path)([REQUEST]))


PAST, FUTURE = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 9015 07:28:00 GMT"
ASKED_WAITS = {
    **dict.fromkeys(["1000000000", "9" * 5000, FUTURE], LONGEST_ASKED_WAIT),
    **dict.fromkeys(["1e9", "-5", "²", "soon", "", PAST], 0),
}


@pytest.mark.parametrize("asked", ASKED_WAITS)
def test_a_server_may_ask_for_so_long_a_wait_and_no_longer(served, tmp_path, asked, monkeypatch):
    head = b"HTTP/1.1 429 Slow\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: "
    served.fault = lambda handler, prompt, count: handler.wfile.write(head + asked.encode() + b"\r\n\r\n")
    client = ask(served, tmp_path, attempts=3)
    waits = []
    monkeypatch.setattr(client._client.given_up, "wait", lambda seconds: waits.append(seconds))
    with pytest.raises(UserError, match="status 429"):
        list(client([REQUEST]))
    assert waits == [0.0, ASKED_WAITS[asked], ASKED_WAITS[asked]]


@given(st.text(st.characters(max_codepoint=255)) | st.text("0123456789 :,-+.GMTWedOct\t", max_size=40))
def test_no_retry_after_stops_the_client(header):
    response = Response()
    response.headers["Retry-After"] = header
    assert 0 <= asked_wait(response) <= LONGEST_ASKED_WAIT


def test_a_compressed_body_is_not_unfolded(served, tmp_path):
    import gzip

    body = gzip.compress(json.dumps({"choices": [{"message": {"content": "x" * 10**6}}]}).encode())

    def packed(handler, prompt, count):
        assert handler.headers["Accept-Encoding"] == "identity"
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
        handler.wfile.write(head + body)
        return True

    served.fault = packed
    with pytest.raises(UserError, match="malformed answer"):
        list(ask(served, tmp_path)([REQUEST]))


def test_no_other_server_is_asked(served, tmp_path):
    served.fault = lambda handler, prompt, count: (
        handler.reply(307, "", Location="http://elsewhere.example/v1") or True
    )
    with pytest.raises(UserError, match="refused with status 307"):
        list(ask(served, tmp_path)([REQUEST]))


def test_a_key_under_any_name_is_not_shown_when_a_server_says_it(served, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SERVER", "planted-value")
    served.fault = lambda handler, prompt, count: (
        handler.reply(401, f"\x1b[31mbad key: {handler.headers['Authorization']}\n\n") or True
    )
    with pytest.raises(UserError, match=r"status 401 \(\\x1b\[31mbad key: Bearer \*\*\*\)"):
        list(ask(served, tmp_path, key_variable="MY_SERVER")([REQUEST]))


@pytest.mark.parametrize(
    "url",
    [
        "http://user:planted@host/v1",
        "https://planted@host/v1",
        "http://user:pla/nted@host/v1",
        "https://host/v1?api_key=planted",
        "https://host/v1#planted",
        "file:///etc/planted",
        "host/v1",
        "http://",
        "http://host:port/v1",
        "http://host/v1\n",
        "http://host/v1\x1b[2J",
    ],
)
def test_an_address_with_secrets_or_none_at_all_is_refused_and_not_repeated(url):
    with pytest.raises(ValidationError) as refused:
        InferenceServer(base_url=url)
    line = explain(refused.value, "scale x", InferenceServer)
    assert line.startswith("scale x: base_url: ")
    assert "planted" not in line
    assert "\n" not in line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage", "prompt_tokens"]), inner),
    max_leaves=8,
)  # fmt: skip
RAW = ["9" * 5000, "-1", "1e999", "1.5", "true", '"12"', "[" * 100_000, "1" + "0" * 400, "NaN", "{}", "null"]


def body(text: str, prompt: str, completion: str) -> bytes:
    usage = f'{{"prompt_tokens": {prompt}, "completion_tokens": {completion}}}'
    return f'{{"choices": [{{"message": {{"content": {text}}}}}], "usage": {usage}}}'.encode()


FIELD = JSON.map(json.dumps) | st.sampled_from(RAW)


@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()) | st.builds(
    body, st.text().map(json.dumps) | FIELD, st.just("3") | FIELD, st.just("4") | FIELD))  # fmt: skip
def test_what_is_kept_of_any_response_can_be_read_again(content):
    try:
        answer = read_answer(json.loads(content))
    except MALFORMED:
        return
    with tempfile.TemporaryDirectory() as scratch:
        AnswerFile(Path(scratch), "m", 8).keep(REQUEST, answer)
        assert AnswerFile(Path(scratch), "m", 8).get(REQUEST) == answer
    assert 0.0 <= answer.prompt_tokens * 1.5 < 1e12


@pytest.mark.parametrize("figure", [raw for raw in RAW if raw not in ("null",)])
def test_absurd_figures_of_usage_are_refused(figure):
    with pytest.raises(MALFORMED):
        read_answer(json.loads(body('"text"', figure, "1")))
    assert read_answer(json.loads(body('"text"', "3", "null"))) == Answer("text", 3, 0)


def test_damaged_lines_are_passed_over_and_told_of(tmp_path, capsys):
    AnswerFile(tmp_path, "m", 8).keep(REQUEST, Answer("that", 1, 2))
    file = tmp_path / "answers.jsonl"
    good = file.read_bytes()
    odd = [b"{", b"[]", b"3", b'{"key": "x"}', b"\xff\xfe", b"[" * 100_000, b"9" * 5000]
    huge = good.replace(b'"prompt_tokens": 1', b'"prompt_tokens": 1' + b"0" * 400)
    file.write_bytes(b"\n".join(odd) + b"\n" + huge + good + b'{"key": "cut')
    answers = AnswerFile(tmp_path, "m", 8)
    assert answers.get(REQUEST) == Answer("that", 1, 2)
    assert f"{file}: {len(odd) + 1} damaged lines are skipped" in capsys.readouterr().err
    answers.keep(Request("more?", 0, 0, 0.0), Answer("more", 1, 1))
    assert file.read_bytes().startswith(b"{\n[]\n")
    assert AnswerFile(tmp_path, "m", 8).get(Request("more?", 0, 0, 0.0)) == Answer("more", 1, 1)


def test_an_append_that_failed_is_cut(tmp_path, monkeypatch):
    answers = AnswerFile(tmp_path, "m", 8)
    answers.keep(REQUEST, Answer("that", 1, 2))
    before = answers.path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            answers.keep(Request("more?", 0, 0, 0.0), Answer("more", 1, 1))
    assert answers.path.read_bytes() == before
    assert answers.get(Request("more?", 0, 0, 0.0)) is None


def test_answers_are_not_written_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("dear")
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "answers.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="is a link, but a file is written here"):
        AnswerFile(tmp_path / "answers", "m", 8)
    assert (tmp_path / "victim").read_text() == "dear"
