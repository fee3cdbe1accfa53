"""Generation against a real HTTP server that speaks OpenAI's schema and fails in every way servers do."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from solar_repro.data.answer_file import Answer, AnswerFile
from solar_repro.data.chat_client import ChatClient
from solar_repro.data.local_model import LocalModel, _GumbelNoise
from solar_repro.data.rephrase_by_model import ANSWER, REPHRASE, Request, generate
from solar_repro.data.synthetic_math import synthesise
from solar_repro.data.templates import set_chat_template
from solar_repro.errors import Stopped, UserError
from solar_repro.scales.inference_server import InferenceServer
from solar_repro.terminal.stopping import handle_signals, interruptible
from tests.model_server import ModelServer, serving

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


@pytest.fixture
def served():
    with serving(model) as server:
        yield server


def ask(served: ModelServer, folder, **changes) -> ChatClient:
    defaults = {
        "concurrency": 4,
        "attempts": 5,
        "timeout": 2.0,
        "first_wait": 0.01,
        "prompt_price": 1.0,
        "completion_price": 10.0,
    }
    server = InferenceServer(base_url=served.url, **defaults | changes)
    return ChatClient(server, AnswerFile(folder, "m", 1024))


def run(client) -> tuple[list[dict[str, str]], dict]:
    report: dict = {}
    return list(generate(PROBLEMS, client, seed=0, samples=1, temperature=0.7, report=report)), report


def check(rows) -> None:
    assert [row["query"] for row in rows] == [f"Compute this: {row['problem']}" for row in PROBLEMS]
    assert [row["original_question"] for row in rows] == [row["problem"] for row in PROBLEMS]
    assert {row["type"] for row in rows} == {"MATH_Rephrased"}
    assert rows[3]["response"] == "We add.\nThe answer is: $\\frac{8}{2}$"


def test_rephrase_answer_and_keep(served, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    client = ask(served, tmp_path)
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
    ended = threading.Event()

    def fault(handler, prompt, count):
        if count > 1:
            return False
        kinds = [
            lambda: handler.reply(429, "slow down", Retry_After="0"),
            lambda: handler.reply(500, "oops"),
            lambda: handler.reply(503, ""),
            lambda: ended.wait(60),
            lambda: handler.connection.close(),
            lambda: handler.reply(200, "no json"),
            lambda: handler.reply(200, "[]"),
            lambda: handler.reply(200, json.dumps({"choices": []})),
            lambda: handler.reply(200, json.dumps({"choices": [{"message": {"content": None}}]})),
            lambda: handler.reply(200, json.dumps({"choices": [{"message": None}]})),
            lambda: handler.reply(200, json.dumps({"choices": [{"message": {"content": "\ud800"}}]})),
        ]
        number = int(prompt.rpartition("$")[0].rpartition("$")[2].partition(" +")[0])
        if number >= len(kinds):
            return False
        kinds[number]()
        return True

    served.fault = fault
    client = ask(served, tmp_path)
    rows, report = run(client)
    ended.set()
    check(rows)
    assert report["dropped"] == {}
    assert client.counts.failed == 0
    assert client.counts.retries == {
        "status 429": 2,
        "status 500": 2,
        "status 503": 2,
        "timeout": 2,
        "connection": 2,
        "malformed answer": 12,
    }


def test_who_is_asked_to_end_does_not_wait_for_another_attempt(served, tmp_path):
    def busy(handler, prompt, count):
        handler.reply(503, "busy")
        return True

    served.fault = busy
    client = ask(served, tmp_path, first_wait=30.0)
    begun = time.monotonic()
    with handle_signals(ends_on_second=False), interruptible():
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Stopped):
            run(client)
    assert time.monotonic() - begun < 10


def test_retry_after_is_kept_to(served, tmp_path):
    times = []

    def fault(handler, prompt, count):
        times.append(time.monotonic())
        if count == 1:
            handler.reply(429, "", Retry_After="1")
        return count == 1

    served.fault = fault
    client = ask(served, tmp_path)
    assert list(client([Request(ANSWER + "$1 + 1$", 0, 0, 0.7)])) == [
        "We add.\nThe answer is: $\\frac{4}{2}$"
    ]
    assert times[1] - times[0] >= 1.0


def test_what_keeps_failing_is_left_out_and_asked_again_by_the_next_run(served, tmp_path):
    def fault(handler, prompt, count):
        if "$3 + 1$" in prompt:
            handler.reply(500, "")
        return "$3 + 1$" in prompt

    served.fault = fault
    rows, report = run(ask(served, tmp_path, attempts=2))
    assert (len(rows), report["dropped"]) == (11, {"no response": 1})
    served.fault = lambda *_: False
    client = ask(served, tmp_path)
    check(run(client)[0])
    assert (client.counts.cached, client.counts.answered) == (22, 2)


def test_a_server_that_never_answers(served, tmp_path):
    served.fault = lambda handler, prompt, count: handler.reply(500, "") or True
    with pytest.raises(UserError, match=r"none of 12 requests was answered.*status 500"):
        run(ask(served, tmp_path, attempts=2))


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_stops_at_once(served, tmp_path, status):
    served.fault = lambda handler, prompt, count: handler.reply(status, "no such\nmodel") or True
    with pytest.raises(UserError, match=f"status {status} .no such model.*OPENAI_API_KEY"):
        run(ask(served, tmp_path))
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
    assert list(generate(unsolved, complete, seed=0, samples=1, temperature=0.7, report=report)) == []
    assert report["dropped"]["original without a final answer"] == 1


def test_samples_of_a_problem_are_different_requests(served, tmp_path):
    client = ask(served, tmp_path)
    rows = list(generate(PROBLEMS[:2], client, seed=0, samples=3, temperature=0.7, report={}))
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
        "from solar_repro.data.answer_file import AnswerFile\n"
        "from solar_repro.data.chat_client import ChatClient\n"
        "from solar_repro.data.rephrase_by_model import generate\n"
        "from solar_repro.scales.inference_server import InferenceServer\n"
        "server = InferenceServer(base_url=sys.argv[1], concurrency=1, timeout=60)\n"
        "problems = json.loads(sys.argv[3])\n"
        "client = ChatClient(server, AnswerFile(Path(sys.argv[2]), 'm', 1024))\n"
        "list(generate(problems, client, seed=0, samples=1, temperature=0.7, report={}))\n"
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
    client = ask(served, tmp_path)
    check(run(client)[0])
    assert set(served.answered.values()) == {1}
    assert (client.counts.cached, client.counts.answered) == (15, 9)
    again = ask(served, tmp_path)
    check(run(again)[0])
    assert (again.counts.cached, again.counts.answered) == (24, 0)


def test_a_line_that_another_process_is_writing_is_not_taken_off(tmp_path):
    request = Request("what ?", 0, 0, 0.0)
    AnswerFile(tmp_path / "whole", "m", 8).keep(request, Answer("that", 1, 1))
    line = (tmp_path / "whole" / "answers.jsonl").read_bytes()
    found = []
    with (tmp_path / "answers.jsonl").open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(line[:20])
        reader = threading.Thread(target=lambda: found.append(AnswerFile(tmp_path, "m", 8)))
        reader.start()
        reader.join(0.3)
        other.write(line[20:])
    reader.join(10)
    assert found[0].get(request) == Answer("that", 1, 1)
    assert (tmp_path / "answers.jsonl").read_bytes() == line


@pytest.mark.slow
def test_local_model(tiny_llama, llama_tokenizer, tmp_path):
    set_chat_template(llama_tokenizer)
    requests = [Request("the sea", sample, 0, 0.7) for sample in range(9)]
    requests.append(Request("a longer prompt", 0, 0, 0.0))

    def local(name):
        return LocalModel(tiny_llama, llama_tokenizer, AnswerFile(tmp_path / name, "m", 4))

    first = list(local("a")(requests))
    assert len(set(first[:9])) > 1
    # What a request is answered does not hang on what is asked beside it.
    assert [next(iter(local("b")([request]))) for request in requests] == first
    # A run that was killed goes on with what is missing; another asks for nothing.
    assert list(local("c")(requests[:3])) == first[:3]
    resumed, again = local("c"), local("c")
    assert list(resumed(requests)) == first
    assert (resumed.counts.cached, resumed.counts.answered) == (3, 7)
    again = local("c")
    assert list(again(requests)) == first
    assert (again.counts.cached, again.counts.answered) == (10, 0)
    # Greedy: what generating alone, without padding, gives.
    turns = [{"role": "user", "content": "a longer prompt"}]
    prompt = llama_tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    ids = tiny_llama.generate(prompt, do_sample=False, max_new_tokens=4, pad_token_id=0, eos_token_id=2)
    assert first[9] == llama_tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)


def test_samples_of_a_local_model_follow_its_probabilities(tiny_llama, llama_tokenizer, tmp_path):
    set_chat_template(llama_tokenizer)
    local = LocalModel(tiny_llama, llama_tokenizer, AnswerFile(tmp_path, "m", 1))
    drawn = _GumbelNoise([Request("x", sample, 0, 2.0) for sample in range(4000)])
    logits = torch.tensor([2.0, 0.0, 1.0, -2.0])
    counts = drawn(None, logits.repeat(4000, 1)).argmax(1).bincount(minlength=4)
    expected = 4000 * torch.softmax(logits / 2.0, 0)
    assert ((counts - expected) ** 2 / expected).sum() < 16.27  # chi squared, 3 degrees, 0.1 %
    llama_tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        LocalModel(tiny_llama, llama_tokenizer, local._answers)
