"""A process that is asked to end: what it saves, says and leaves behind; and one that is asked twice."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from entry_points.command import run_main
from solar_repro.errors import Stopped
from solar_repro.h6.journal import Journal
from solar_repro.terminal import stopping
from solar_repro.terminal.stopping import (
    deferred_stop,
    handle_signals,
    interruptible,
    raise_if_stop_requested,
)
from tests.conftest import ROOT
from tests.runs import Workplace, at_check

TERM, INT = signal.SIGTERM, signal.SIGINT
LONG = ("--continue_pretrain.epochs", "100")
"""Makes `solar` and `repeat_continued` anew, from text that is packed already, and takes minutes."""


@pytest.fixture(autouse=True)
def hears_ctrl_c():
    """A shell's background job, and what it starts, ignores Ctrl-C."""
    before = signal.signal(INT, signal.default_int_handler)
    yield
    signal.signal(INT, before)


def ask(number: int) -> None:
    os.kill(os.getpid(), number)


def started(place: Workplace, entry: str, *arguments: str) -> subprocess.Popen:
    """An entry point in a process group of its own, as a terminal has it."""
    command = [sys.executable, "-m", f"entry_points.{entry}", *at_check(arguments)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=place.environment(), start_new_session=True, **pipes)


def wait_until(holds, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def makers(place: Workplace) -> set[int]:
    """The processes that have begun to make a step."""
    return {int(folder.name.split(".")[-3]) for folder in place.store.glob(".*.working.*")}


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def new_runs(place: Workplace, known: set[str]) -> dict[str, str]:
    return {run.info.run_name: run.info.status for run in place.runs() if run.info.run_id not in known}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [pytest.param(TERM, 143, marks=pytest.mark.rare), (INT, 130)])
def test_steps_side_by_side_save_their_state_and_are_named(own_place, number, code):
    known = {run.info.run_id for run in own_place.runs()}
    process = started(own_place, "main", "--jobs", "2", *LONG)

    def both_train() -> bool:
        files = own_place.store.glob(".*.working.*/solar/metrics.jsonl")
        return sum('"loss"' in file.read_text() for file in files) == 2

    wait_until(both_train, process)
    workers = makers(own_place)
    if number == INT:  # a terminal sends it to all, and `mlflow run` SIGTERM behind it
        os.killpg(process.pid, INT)
    process.send_signal(TERM)
    told = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == code
    made = [line for line in told if not line.endswith(" cached")]
    assert [line.partition("] ")[2].split() for line in made[:2]] == [
        ["solar", "running"],
        ["repeat_continued", "running"],
    ]
    asked, last = [line for line in made[2:] if "packing text" not in line]
    assert asked.startswith("asked to end: what is at work saves its state")
    *steps, goes_on = last.split("; ")
    saved = "stopped at step \\d+ of \\d+; its state is saved"
    assert re.fullmatch(f"(solar: {saved}|repeat_continued: {saved}|; )+", "; ".join(steps))
    assert goes_on == "the same command continues from there"
    for name in ("solar", "repeat_continued"):
        assert f"{name}: " in last
        assert list(own_place.store.glob(f".{name}-*.saved/checkpoint-*/metrics.jsonl"))
    assert new_runs(own_place, known) == dict.fromkeys(("main check", "solar", "repeat_continued"), "KILLED")
    assert not list(own_place.store.glob(".*.working.*"))
    assert not any(map(alive, workers))


@pytest.mark.slow
def test_asked_twice_they_are_not_waited_for(own_place):
    known = {run.info.run_id for run in own_place.runs()}
    process = started(own_place, "main", "--jobs", "2", *LONG)
    wait_until(lambda: len(makers(own_place)) == 2, process)
    workers = makers(own_place)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # it would never answer
    process.send_signal(TERM)
    time.sleep(stopping.SAME_REQUEST_SECONDS + 0.5)
    process.send_signal(TERM)
    told = process.communicate(timeout=20)[1]
    assert process.returncode == 143
    assert "ended at once; the same command continues from there" in told
    assert "Traceback" not in told
    assert not any(map(alive, workers))
    assert new_runs(own_place, known) == dict.fromkeys(("main check", "solar", "repeat_continued"), "KILLED")


def test_an_evaluation_keeps_its_answers(own_place, here, monkeypatch):
    known = {run.info.run_id for run in own_place.runs()}
    take = Journal.add_partial

    def ask_after_some(journal, *answer):
        take(journal, *answer)
        if journal.answered == 15:
            ask(TERM)

    monkeypatch.setattr(Journal, "add_partial", ask_after_some)
    ended = here(own_place, "evaluate", "--variant", "base", "--evaluate.limits.GSM8K", "12")
    assert ended.returncode == 143
    assert ended.stderr.splitlines()[-1] == "base.evaluate: stopped; the same command continues from there"
    assert new_runs(own_place, known) == {"base.evaluate": "KILLED"}
    assert not list(own_place.store.glob(".*.working.*"))
    assert list(own_place.store.glob(".*.saved/answers-*.jsonl"))


@pytest.mark.parametrize(("number", "code"), [(TERM, 143), (INT, 130)])
def test_an_entry_point_ends_with_one_line_and_the_signals_code(number, code, capfd):
    with pytest.raises(SystemExit) as end:
        run_main(lambda: ask(number))
    assert end.value.code == code
    assert capfd.readouterr().err == "stopped; the same command continues from there\n"


def test_who_saves_is_not_interrupted_and_what_comes_after_is(capfd):
    with handle_signals(ends_on_second=True) as process, interruptible():
        with deferred_stop() as asked:
            ask(INT)
            assert asked.is_set()
        assert process.number == INT
        with pytest.raises(Stopped):
            raise_if_stop_requested()
    assert "asked once more, it ends at once" in capfd.readouterr().err


def test_signals_that_come_together_are_one_wish(monkeypatch):
    with handle_signals(ends_on_second=True), deferred_stop():
        ask(INT)
        ask(TERM)
        monkeypatch.setattr(stopping, "SAME_REQUEST_SECONDS", 0.0)
        with pytest.raises(Stopped, match="ended at once"):
            ask(TERM)


def test_where_a_second_signal_ends_nothing_any_number_is_borne(monkeypatch):
    monkeypatch.setattr(stopping, "SAME_REQUEST_SECONDS", 0.0)
    with handle_signals(ends_on_second=False), interruptible():
        with pytest.raises(Stopped):
            ask(TERM)
        ask(TERM)
        ask(TERM)


def test_the_signals_are_given_back_and_an_ignored_ctrl_c_stays_ignored():
    before = signal.getsignal(TERM), signal.getsignal(INT)
    try:
        signal.signal(INT, signal.SIG_IGN)
        with handle_signals(ends_on_second=True) as asked:
            ask(INT)
            assert not asked.is_set()
        assert (signal.getsignal(TERM), signal.getsignal(INT)) == (before[0], signal.SIG_IGN)
    finally:
        signal.signal(INT, before[1])
