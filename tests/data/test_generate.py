"""Generation against a real HTTP server that speaks OpenAI's schema and fails in every way servers do."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from solar_repro.data.chat_server import ChatClient, Server
from solar_repro.data.generate import ANSWER, REPHRASE, Request, generate
from solar_repro.data.local_model import LocalModel
from solar_repro.data.math import synthesise
from solar_repro.data.templates import set_chat_template
from solar_repro.errors import UserError

PROBLEMS = [
    {"problem": f"What is ${n} + 1$?", "solution": f"It is $\\boxed{{{n + 1}}}$.", "answer": "damaged"}
    for n in range(12)
]


def model(prompt: str) -> str:
    """A model that rephrases, and adds one, in LaTeX, to the number it is asked about."""
    if prompt.startswith(REPHRASE):
        question = prompt.rpartition("Question: ")[2].partition("\n")[0]
        return f" Compute this: {question}\n\nQuestion: another one\nRephrase the above question: no"
    number = int(prompt.removeprefix(ANSWER).partition("$")[2].partition(" +")[0])
    return f"We add.\nThe answer is: $\\frac{{{2 * number + 2}}}{{2}}$"


class ModelServer:
    """Answers by `model`, unless `faults` has a function for the request (its prompt's count so far)."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.fault = lambda handler, prompt, count: False
        self.lock = threading.Lock()
        seen: Counter[str] = Counter()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][0]["content"]
                with outer.lock:
                    seen[prompt] += 1
                    outer.bodies.append(body | {"path": self.path})
                    outer.headers.append(dict(self.headers))
                    count = seen[prompt]
                if outer.fault(self, prompt, count):
                    return
                with outer.lock:
                    outer.answered[prompt] += 1
                message = {"role": "assistant", "content": model(prompt)}
                usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
                self.reply(200, json.dumps({"choices": [{"index": 0, "message": message}], "usage": usage}))

            def reply(self, status: int, text: str, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that was killed

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def served():
    made = ModelServer()
    yield made
    made.server.shutdown()
    made.server.server_close()


def settings(served: ModelServer, **changes) -> Server:
    defaults = {
        "concurrency": 4,
        "attempts": 5,
        "timeout": 0.5,
        "first_wait": 0.01,
        "price_per_million": (1.0, 10.0),
    }
    return Server(served.url, "m", **defaults | changes)


def run(client) -> tuple[list[dict[str, str]], dict]:
    report: dict = {}
    return list(generate(PROBLEMS, client, seed=0, samples=1, report=report)), report


def check(rows) -> None:
    assert [row["query"] for row in rows] == [f"Compute this: {row['problem']}" for row in PROBLEMS]
    assert [row["original_question"] for row in rows] == [row["problem"] for row in PROBLEMS]
    assert {row["type"] for row in rows} == {"MATH_Rephrased"}
    assert rows[3]["response"] == "We add.\nThe answer is: $\\frac{8}{2}$"


def test_rephrase_answer_and_keep(served, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    client = ChatClient(settings(served), tmp_path)
    rows, report = synthesise("generate", PROBLEMS, complete=client)
    check(rows)
    assert (report["asked"], report["accepted"], report["dropped"]) == (12, 12, {})
    body = served.bodies[0]
    assert (body["path"], body["model"], body["temperature"]) == ("/v1/chat/completions", "m", 0.7)
    assert served.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in (tmp_path / "answers.jsonl").read_text()
    counts = client.counts
    assert (counts.answered, counts.cached, counts.failed) == (24, 0, 0)
    assert (counts.prompt_tokens, counts.completion_tokens) == (2400, 240)
    assert counts.cost == pytest.approx(2400e-6 + 2400e-6)


def test_every_kind_of_failure_is_tried_again(served, tmp_path):
    def fault(handler, prompt, count):
        if count > 1:
            return False
        kinds = [
            lambda: handler.reply(429, "slow down", Retry_After="0"),
            lambda: handler.reply(500, "oops"),
            lambda: handler.reply(503, ""),
            lambda: time.sleep(1.0),
            lambda: handler.connection.close(),
            lambda: handler.reply(200, "no json"),
            lambda: handler.reply(200, "[]"),
            lambda: handler.reply(200, json.dumps({"choices": []})),
            lambda: handler.reply(200, json.dumps({"choices": [{"message": {"content": None}}]})),
            lambda: handler.reply(200, json.dumps({"choices": [{"message": None}]})),
        ]
        number = int(prompt.rpartition("$")[0].rpartition("$")[2].partition(" +")[0])
        if number >= len(kinds):
            return False
        kinds[number]()
        return True

    served.fault = fault
    client = ChatClient(settings(served), tmp_path)
    rows, report = run(client)
    check(rows)
    assert report["dropped"] == {}
    assert client.counts.failed == 0
    assert client.counts.retries == {
        "status 429": 2,
        "status 500": 2,
        "status 503": 2,
        "timeout": 2,
        "connection": 2,
        "malformed answer": 10,
    }


def test_retry_after_is_kept_to(served, tmp_path):
    times = []

    def fault(handler, prompt, count):
        times.append(time.monotonic())
        if count == 1:
            handler.reply(429, "", Retry_After="1")
        return count == 1

    served.fault = fault
    client = ChatClient(settings(served), tmp_path)
    assert list(client([Request(ANSWER + "$1 + 1$", 0, 0)])) == ["We add.\nThe answer is: $\\frac{4}{2}$"]
    assert times[1] - times[0] >= 1.0


def test_what_keeps_failing_is_left_out_and_asked_again_by_the_next_run(served, tmp_path):
    def fault(handler, prompt, count):
        if "$3 + 1$" in prompt:
            handler.reply(500, "")
        return "$3 + 1$" in prompt

    served.fault = fault
    rows, report = run(ChatClient(settings(served, attempts=2), tmp_path))
    assert (len(rows), report["dropped"]) == (11, {"no response": 1})
    served.fault = lambda *_: False
    client = ChatClient(settings(served), tmp_path)
    check(run(client)[0])
    assert (client.counts.cached, client.counts.answered) == (22, 2)


def test_a_server_that_never_answers(served, tmp_path):
    served.fault = lambda handler, prompt, count: handler.reply(500, "") or True
    with pytest.raises(UserError, match=r"none of 12 requests was answered.*status 500"):
        run(ChatClient(settings(served, attempts=2), tmp_path))


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_stops_at_once(served, tmp_path, status):
    served.fault = lambda handler, prompt, count: handler.reply(status, "no such\nmodel") or True
    with pytest.raises(UserError, match=f"status {status} .no such model.*OPENAI_API_KEY"):
        run(ChatClient(settings(served), tmp_path))
    assert len(served.bodies) <= 4


def test_wrong_answers_and_idle_rephrasings_are_dropped_by_reason(served):
    texts = {
        "$0 + 1$": "What is $0 + 1$?",
        "$1 + 1$": "   ",
        "$2 + 1$": None,
    }
    answers = {
        "$3 + 1$": "The answer is: 5",
        "$4 + 1$": "I do not know",
        "$5 + 1$": None,
        "$6 + 1$": "\\boxed{7}",
    }

    def complete(requests):
        for request in requests:
            known = texts if request.prompt.startswith(REPHRASE) else answers
            question = request.prompt.rpartition("$")[0].rpartition("$")[2]
            yield known.get(f"${question}$", model(request.prompt))

    rows, report = run(complete)
    assert [row["original_question"] for row in rows] == [row["problem"] for row in PROBLEMS[6:]]
    assert rows[0]["response"] == "\\boxed{7}\nThe answer is: 7"
    assert report["dropped"] == {
        "rephrasing is the original": 1,
        "empty rephrasing": 1,
        "no response": 2,
        "another final answer": 1,
        "response without a final answer": 1,
    }
    unsolved = [{"problem": "x", "solution": "", "answer": ""}]
    assert list(generate(unsolved, complete, seed=0, samples=1, report=report)) == []
    assert report["dropped"]["original without a final answer"] == 1


def test_samples_of_a_problem_are_different_requests(served, tmp_path):
    client = ChatClient(settings(served), tmp_path)
    rows = list(generate(PROBLEMS[:2], client, seed=0, samples=3, report={}))
    assert len(rows) == 6
    assert sorted(body["seed"] for body in served.bodies) == [0] * 4 + [1] * 4 + [2] * 4


def test_killed_run_loses_nothing_and_pays_nothing_twice(served, tmp_path):
    """The server holds back after 15 answers, the process is killed, a second run asks only for the rest."""
    held = threading.Event()

    def fault(handler, prompt, count):
        with served.lock:
            enough = served.answered.total() >= 15
        if enough:
            held.set()
            time.sleep(30)
        return enough

    served.fault = fault
    script = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from solar_repro.data.chat_server import ChatClient, Server\n"
        "from solar_repro.data.generate import generate\n"
        "server = Server(sys.argv[1], 'm', concurrency=1, timeout=60)\n"
        "problems = json.loads(sys.argv[3])\n"
        "client = ChatClient(server, Path(sys.argv[2]))\n"
        "list(generate(problems, client, seed=0, samples=1, report={}))\n"
    )
    arguments = [sys.executable, "-c", script, served.url, str(tmp_path), json.dumps(PROBLEMS)]
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        assert held.wait(60)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert served.answered.total() == 15
    with (tmp_path / "answers.jsonl").open("a") as out:
        out.write('{"key": "cut short by the ki')
    served.fault = lambda *_: False
    client = ChatClient(settings(served), tmp_path)
    check(run(client)[0])
    assert set(served.answered.values()) == {1}
    assert (client.counts.cached, client.counts.answered) == (15, 9)
    again = ChatClient(settings(served), tmp_path)
    check(run(again)[0])
    assert (again.counts.cached, again.counts.answered) == (24, 0)


def test_local_model(tiny_llama, llama_tokenizer):
    set_chat_template(llama_tokenizer)
    local = LocalModel(tiny_llama, llama_tokenizer, max_new_tokens=4, batch_size=2)
    requests = [Request("the sea", sample, 0) for sample in (0, 1)] + [Request("a longer prompt", 0, 0, 0.0)]
    first, again = list(local(requests)), list(local(requests))
    assert first == again
    assert len(first) == 3
    # Greedy: what generating alone, without padding, gives.
    turns = [{"role": "user", "content": "a longer prompt"}]
    prompt = llama_tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    ids = tiny_llama.generate(prompt, do_sample=False, max_new_tokens=4, pad_token_id=0, eos_token_id=2)
    assert first[2] == llama_tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)
