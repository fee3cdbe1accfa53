"""The live display, in a pseudo-terminal."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.runs import EXPERIMENT, at_check, forget
from tests.screen import watched

WORLD = """
import os, subprocess, sys
from entry_points.command import run_main
from solar_repro.terminal import events, progress
from solar_repro.errors import UserError
from solar_repro.terminal.events import ActivityEvent, PlanEvent, StepEvent, WorkEvent
from solar_repro.terminal.progress import Progress
from solar_repro.terminal.remaining import StepCost
from solar_repro.terminal.output import live_display

NAMES = ["microworld", "sft_v1", "sft_v2", "sft_v1.evaluate"]
STAGES = ["microworld", "sft", "sft", "evaluate"]

def turn(number, state, seconds=0.0, text="running"):
    label, stage = NAMES[number - 1], STAGES[number - 1]
    tell(StepEvent(label, label, stage, (number, 4), state, text, seconds))

def told(number, done, total, note, is_main=True, label="sft", ended=False):
    name = NAMES[number - 1]
    tell(WorkEvent(f"bar {number}", name, label, done, total, "steps", 10.0, note, is_main, ended))

def tell(event):
    events.listener(event)

def wait():
    sys.stdin.readline()

def plan():
    works = {name: StepCost(stage, float(stage == "sft")) for name, stage in zip(NAMES, STAGES)}
    tell(PlanEvent(works, tuple(NAMES), 2))
"""


def script(body: str) -> list[str]:
    """A process that does this inside the display, as an entry point."""
    inside = "".join(f"        {line}\n" for line in body.strip().splitlines())
    main = (
        f"def main():\n    with live_display('main check'):\n{inside}"
        "    print('the closing block')\nrun_main(main)\n"
    )
    return ["-c", WORLD + main]


TWO_AT_WORK = """
plan()
turn(1, "begun"); turn(1, "made", 2.5)
turn(2, "begun"); turn(3, "begun")
told(2, 40, 100, "loss 2.345, 900 tokens/s"); told(3, 10, 100, "loss 3.456, 800 tokens/s")
wait()
"""


def has(*texts: str):
    """Whether each of the texts stands in a line. The plan is drawn last: with it the rest is whole."""
    return lambda lines: all(any(text in line for line in lines) for text in texts)


def test_steps_at_work_and_the_plan_have_a_line_each():
    with watched(script(TWO_AT_WORK)) as terminal:
        lines = terminal.until(has("1 of 4 steps", "[3/4]"))
        first, second, third, plan = lines
        assert re.fullmatch(r"✓ \[1/4\] microworld +2\.5 s", first)
        assert re.fullmatch(
            r"\S \[2/4\] sft_v1 +sft  ━{5}─{9}  40%  loss 2\.345, 900 tokens/s, 15 s left", second
        )
        assert re.fullmatch(
            r"\S \[3/4\] sft_v2 +sft  ━─{13}  10%  loss 3\.456, 800 tokens/s, 2 min left", third
        )
        # sft_v2 takes 90 s more; nothing tells yet how long an evaluation takes
        assert re.fullmatch(r"\S main check  ━{6}─{18}  1 of 4 steps, \d+ s, roughly 2 min left", plan)
        terminal.go_on()
        lines = terminal.end()
        assert [line[:5] for line in lines] == ["✓ [1/", "✗ [2/", "✗ [3/", "the c"]
        assert terminal.process.returncode == 0


def test_finished_steps_go_above_in_the_order_of_their_numbers():
    body = (
        TWO_AT_WORK
        + """
turn(3, "made", 30.0)
wait()
turn(4, "begun", text="running")
turn(2, "made", 40.0); turn(4, "made", 1.0)
"""
    )
    with watched(script(body)) as terminal:
        terminal.until(has("[3/4]"))
        terminal.go_on()
        lines = terminal.until(has("✓ [3/4]", "main check"))
        assert [line[2:7] for line in lines[:3]] == ["[1/4]", "[2/4]", "[3/4]"]
        terminal.go_on()
        assert [line[:7] for line in terminal.end()] == [f"✓ [{n}/4]" for n in range(1, 5)] + ["the clo"]


def test_steps_that_were_finished_before_take_one_line():
    body = 'plan()\nfor number in (1, 2, 3): turn(number, "found", text="cached")\nwait()\n'
    with watched(script(body + 'turn(4, "begun"); turn(4, "made", 1.0)')) as terminal:
        lines = terminal.until(has("3 of 4 steps"))
        assert lines[0] == "✓ [1–3/4] 3 steps were finished before"
        terminal.go_on()
        lines = terminal.end()
        assert lines[0] == "✓ [1–3/4] 3 steps were finished before"
        assert lines[1].startswith("✓ [4/4]")


@pytest.mark.parametrize("columns", [36, 40, 71, 80])
def test_a_narrow_terminal_is_not_overrun(columns):
    with watched(script(TWO_AT_WORK), columns, 8) as terminal:
        lines = terminal.until(has("[3/4]", "main check"))
        assert len(lines) == 4
        if columns >= 40:
            assert "40%" in lines[1]
            assert re.search(r"1( of |/)4.*roughly 2 min left", lines[3])
        terminal.go_on()
        lines = terminal.end()
        assert [line[:5] for line in lines] == ["✓ [1/", "✗ [2/", "✗ [3/", "the c"]


def test_no_more_lines_than_the_terminal_has():
    body = """
for number in range(12):
    tell(StepEvent(f"k{number}", f"model_{number}", "merge", (number + 1, 12), "begun", "running"))
wait()
"""
    with watched(script(body), 80, 6) as terminal:
        lines = terminal.until(has("and 10 more", "main check"))
        assert len(lines) == 4
        assert "model_0" in lines[0]
        terminal.go_on()
        terminal.end()


def test_what_others_write_meanwhile_stands_above_in_whole_lines():
    body = (
        TWO_AT_WORK
        + """
print("a line of Python's")
os.write(2, b"a line of a library in C\\n")
subprocess.run(["echo", "a line of another process"])
print("a half line", end="")
wait()
"""
    )
    with watched(script(body)) as terminal:
        terminal.until(has("[3/4]"))
        terminal.go_on()
        lines = terminal.until(has("another process", "main check"))
        assert lines[1:4] == ["a line of Python's", "a line of a library in C", "a line of another process"]
        assert re.match(r"\S main check", lines[-1])
        terminal.go_on()
        assert terminal.end()[4] == "a half line"


def test_without_colour():
    with watched(script(TWO_AT_WORK), NO_COLOR="1") as terminal:
        terminal.until(has("[3/4]"))
        terminal.go_on()
        terminal.end()
        colours = {
            code for codes in re.findall(r"\x1b\[([0-9;]*)m", terminal.raw) for code in codes.split(";")
        }
        assert colours <= {"", "0", "1", "2"}  # bold and dim


PLAIN = """
from solar_repro.terminal import progress
from solar_repro.terminal.progress import Progress
from solar_repro.terminal.output import live_display
progress.SECONDS_BETWEEN_LINES = progress.SECONDS_BETWEEN_EVENTS = 0
with live_display("main check"), Progress("sft", 2, "steps") as bar:
    bar.advance(1, "loss 2.345")
    bar.advance(1, "loss 2.123")
"""
LINES = [r"sft: 1/2 steps, .* s left, loss 2\.345", r"sft: 2/2 steps, .* s, loss 2\.123"]


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": None}, {"CI": "true"}])
def test_plain_lines_where_the_cursor_cannot_move_or_nobody_watches(variables):
    with watched(["-c", PLAIN], **variables) as terminal:
        lines = terminal.end()
        assert "\x1b" not in terminal.raw
        assert all(map(re.fullmatch, LINES, lines))
        assert len(lines) == 2


def test_plain_lines_in_a_pipe():
    done = subprocess.run([sys.executable, "-c", PLAIN], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(map(re.fullmatch, LINES, done.stderr.splitlines()))
    assert done.stdout == ""


def test_work_of_no_plan_has_a_display_of_its_own():
    body = "import sys\n" + PLAIN.replace('live_display("main check"), ', "")
    body = body.replace('bar.advance(1, "loss 2.123")', "sys.stdin.readline()")
    with watched(["-c", body]) as terminal:
        (line,) = terminal.until(has("50%"))
        assert re.fullmatch(r"\S sft +━{7}─{7}  50%  loss 2\.345, .*steps/s, .* left", line)
        terminal.go_on()
        (line,) = terminal.end()
        assert line.startswith("sft: 1/2 steps")


def test_an_error_of_a_step_leaves_its_one_line_last():
    body = (
        TWO_AT_WORK + 'turn(2, "failed", text="failed")\nraise UserError("sft_v1: what is wrong, and where")'
    )
    with watched(script(body)) as terminal:
        terminal.until(has("[3/4]"))
        terminal.go_on()
        lines = terminal.end()
        assert [line[:5] for line in lines] == ["✓ [1/", "✗ [2/", "✗ [3/", "error"]
        assert lines[1].endswith(" failed")
        assert lines[2].endswith(" stopped")
        assert lines[-1] == "error: sft_v1: what is wrong, and where"
        assert terminal.process.returncode == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_end_nothing_is_drawn_over_any_more(number, code):
    with watched(script(TWO_AT_WORK)) as terminal:
        before = terminal.until(has("[3/4]", "1 of 4 steps"))
        terminal.process.send_signal(number)
        lines = terminal.end()
        assert lines[: len(before) - 1] == before[:-1]  # as it stood, and behind it what came of it
        after = [line for line in lines[len(before) :] if line]
        assert [line[:7] for line in after[:-1]] == ["✗ [2/4]", "✗ [3/4]"]
        assert after[-1] == "stopped; the same command continues from there"
        assert terminal.process.returncode == code
        assert "\x1b[?25l" not in terminal.raw  # the cursor was never hidden


def test_a_killed_process_leaves_a_terminal_that_works():
    with watched(script(TWO_AT_WORK)) as terminal:
        terminal.until(has("[3/4]"))
        terminal.process.send_signal(signal.SIGKILL)
        terminal.end()
        assert "\x1b[?25l" not in terminal.raw


def test_a_fault_of_the_display_costs_nothing_but_the_display():
    body = (
        TWO_AT_WORK
        + """
def fault(*size): raise KeyError("a fault")
events.listener.__self__._board.lines = fault
os.write(2, 5000 * b"a line that is longer than others\\n")
print("what else is written")
wait()
"""
    )
    with watched(script(body)) as terminal:
        terminal.until(has("[3/4]"))
        terminal.go_on()
        lines = terminal.until(has("what else is written"))
        assert lines.count("a line that is longer than others") == 5000
        assert lines.count("KeyError: 'a fault'") == 1
        terminal.go_on()
        assert terminal.end()[-1] == "the closing block"


@pytest.mark.slow
def test_the_plan_in_a_terminal_with_steps_side_by_side(own_place):
    for name in ("sft_v1", "sft_v2"):
        forget(own_place, name)
    command = ["-m", "entry_points.main", *at_check(()), "--jobs", "2"]
    with watched(command, 110, 40, **own_place.variables()) as terminal:
        training = r"\S \[50/51\] sft_v1 +sft  [━─]{14} +\d+%  loss \d.*tokens/s.*\n(.*\n)?"
        plan = r"\S main check  [━─]{24}  49 of 51 steps, .* left( .*)?"
        terminal.until(lambda lines: re.search(training + plan, "\n".join(lines)))
        assert terminal.screen.shown()[0] == "✓ [1–49/51] 49 steps were finished before"
        lines = terminal.end()
        assert terminal.process.returncode == 0, "\n".join(lines)
        assert [line[:9] for line in lines[:3]] == ["✓ [1–49/5", "✓ [50/51]", "✓ [51/51]"]
        assert any(line.split()[:3] == ["sft_v1", "SFT", "v1"] for line in lines)
        closing = "".join(lines[-10:])  # the terminal breaks lines that are longer than it is wide
        assert "/report/check/compare.html" in closing
        assert "UI: mlflow ui" in closing
        assert "Table 3 compared: http" in closing


@pytest.mark.slow
def test_ctrl_c_under_mlflow_run(own_place):
    run = ["-m", "mlflow", "run", ".", "--env-manager", "local", "--experiment-name", EXPERIMENT]
    long = [*("-P", "scale=check"), *("-P", "continue_pretrain.tokens=2000000")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with watched([*run, *long], 110, 40, **own_place.variables(), PATH=path) as terminal:
        terminal.until(lambda lines: any("loss" in line for line in lines))
        os.killpg(terminal.process.pid, signal.SIGINT)
        lines = terminal.end()
        # The terminal breaks a line that is longer than it is wide.
        assert "".join(lines).count("the same command continues from there") == 1, "\n".join(lines)
        assert "its state is saved" in "".join(lines)
        assert any("asked to end" in line for line in lines)
        assert any(re.match(r"✗ \[.*solar .*stopped", line) for line in lines)
