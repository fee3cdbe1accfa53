"""What the display shows of a step that was asked for alone: no numbers, and only what it needs."""

import re

import pytest

from solar_repro.terminal.board import Board, duration_text, remaining_text
from solar_repro.terminal.events import PlanEvent, StepEvent, WorkEvent
from solar_repro.terminal.remaining import Remaining, StepCost

WORKS = {
    "base": StepCost("base", 0.0),
    "upscaled": StepCost("upscale", 0.0, ("base",)),
    "solar": StepCost("continue_pretrain", 6e9, ("upscaled",)),
    "sft_v3": StepCost("sft", 3e9, ("solar",)),
    "dpo_v2": StepCost("dpo", 4e9, ("sft_v3",)),
}


def turn(board, name, state, text="running", seconds=0.0):
    board.handle(StepEvent(name, name, WORKS[name].stage, (0, 0), state, text, seconds))


def lines(board, width=110):
    return [line.plain.rstrip() for line in board.lines(width, 30)]


def test_what_a_finished_step_was_made_from_is_not_needed():
    board = Board("dpo_v2", plain=False)
    board.handle(PlanEvent(WORKS, tuple(WORKS), 1))
    turn(board, "solar", "found", "cached")
    found, plan = lines(board)
    assert found == "✓ solar    finished before"
    assert "  3 of 5 steps, 0 s, time left: not known yet" in plan
    turn(board, "sft_v3", "begun")
    board.handle(WorkEvent("1", "sft_v3", "alpaca_gpt4: tokenising", 3, 10, "rows", 2.0, "", is_main=False))
    assert re.fullmatch(
        r". sft_v3  sft: alpaca_gpt4: tokenising  ━+─+  30%  1\.5 rows/s, 5 s left", lines(board)[0]
    )
    turn(board, "sft_v3", "made", seconds=60.0)
    turn(board, "dpo_v2", "begun", "going on from checkpoint-40")
    step, plan = lines(board)
    assert step[1:] == " dpo_v2  dpo  going on from checkpoint-40"
    assert plan.endswith("4 of 5 steps, 0 s, roughly 1 min left")  # 60 s for 3e9 operations, so 80 for 4e9
    turn(board, "dpo_v2", "made", seconds=75.0)
    above = [" ".join(line.plain.split()) for line in board.above]
    assert above == ["✓ solar finished before", "✓ sft_v3 1 min", "✓ dpo_v2 1 min 15 s"]
    (plan,) = lines(board)
    assert plan.endswith("5 of 5 steps, 0 s")


def test_of_a_whole_plan_a_step_counts_once_it_is_there_itself():
    board = Board("main", plain=False)
    board.handle(PlanEvent(WORKS, tuple(WORKS), 1, whole=True))
    turn(board, "dpo_v2", "found", "cached")
    assert "  1 of 5 steps, 0 s, time left: not known yet" in lines(board)[-1]
    turn(board, "sft_v3", "begun")
    turn(board, "sft_v3", "made", seconds=60.0)
    assert "  2 of 5 steps, 0 s, " in lines(board)[-1]


def test_in_a_terminal_of_ascii_alone():
    board = Board("main", plain=True)
    board.handle(PlanEvent(WORKS, tuple(WORKS), 1))
    turn(board, "base", "begun")
    turn(board, "base", "failed", "failed")
    assert all(line.plain.isascii() for line in [*board.above, *board.lines(110, 30)])


@pytest.mark.parametrize(
    ("seconds", "words", "left"),
    [
        (8.13, "8.1 s", "10 s"),
        (33.4, "33 s", "35 s"),
        (59.0, "59 s", "1 min"),
        (60.0, "1 min", "1 min"),
        (72.0, "1 min 12 s", "1 min"),
        (7500.0, "2 h 5 min", "2 h 5 min"),
        (300_000.0, "3 d 11 h", "3 d 11 h"),
    ],
)
def test_times_in_words(seconds, words, left):
    assert duration_text(seconds) == words
    assert remaining_text(Remaining(seconds, rough=False)) == f"about {left} left"
    assert remaining_text(Remaining(seconds, rough=True)) == f"roughly {left} left"
