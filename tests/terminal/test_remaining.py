"""The remaining time of a plan: reckoned by hand beside the function's."""

import pytest

from solar_repro.terminal.remaining import Remaining, StepCost, StepProgress, expected_seconds, remaining_time

BASE, UPSCALED = StepCost("base", 0.0), StepCost("upscale", 0.0, ("base",))
SOLAR = StepCost("continue_pretrain", 600.0, ("upscaled",))
SCORES = {f"scored_{n}": StepCost("evaluate", 50.0, ("solar",)) for n in range(4)}
PLAN = {"base": BASE, "upscaled": UPSCALED, "solar": SOLAR, **SCORES}


def test_nothing_is_promised_before_anything_was_timed():
    assert remaining_time(PLAN, set(), {}, {}, 1) is None
    assert remaining_time(PLAN, {"base"}, {"base": 3.0}, {"upscaled": StepProgress(1.0)}, 1) is None


def test_a_training_at_work_says_how_fast_operations_go():
    at_work = {"solar": StepProgress(seconds=20.0, left=40.0, is_main=True)}  # 600 operations in 60 s
    found = remaining_time(PLAN, {"base", "upscaled"}, {"base": 3.0, "upscaled": 1.0}, at_work, 1)
    assert found == Remaining(40.0 + 4 * 5.0, rough=True)  # no evaluation was timed


def test_timed_steps_of_the_same_stage_count_alone():
    took = {"base": 3.0, "upscaled": 1.0, "solar": 60.0, "scored_0": 12.0}
    found = remaining_time(PLAN, took, took, {"scored_1": StepProgress(seconds=5.0)}, 1)
    assert found == Remaining(7.0 + 2 * 12.0, rough=False)


def test_what_was_found_finished_has_taken_no_time():
    assert expected_seconds(SCORES["scored_0"], [(SOLAR, 60.0)]) == (5.0, False)
    found = remaining_time(PLAN, {"base", "upscaled", "solar"}, {}, {}, 1)
    assert found is None  # nothing was timed here


def test_several_side_by_side_share_the_sum_but_a_chain_is_not_shared():
    took = {"base": 3.0, "upscaled": 1.0, "solar": 60.0, "scored_0": 12.0}
    assert remaining_time(PLAN, took, took, {}, 2) == Remaining(18.0, rough=False)
    timed = {"other": 30.0, "score": 12.0}
    works = {**PLAN, "other": StepCost("continue_pretrain", 600.0), "score": StepCost("evaluate", 50.0)}
    found = remaining_time(works, {"base", "upscaled", *timed}, timed, {}, 8)
    assert found == Remaining(30.0 + 12.0, rough=False)  # the scores wait for `solar`


def test_a_step_that_takes_longer_than_expected_is_not_reckoned_below_nothing():
    took = {"base": 3.0, "upscaled": 1.0, "solar": 60.0, "scored_0": 12.0, "scored_1": 12.0, "scored_2": 12.0}
    assert remaining_time(PLAN, took, took, {"scored_3": StepProgress(seconds=99.0)}, 1) == Remaining(
        0.0, rough=False
    )
    found = remaining_time(PLAN, took, took, {"scored_3": StepProgress(99.0, left=20.0)}, 1)
    assert found == Remaining(20.0, rough=False)


def test_the_whole_plan_done_leaves_nothing():
    assert remaining_time(PLAN, PLAN, {}, {}, 2) == Remaining(0.0, rough=False)


def test_a_long_step_without_a_formula_takes_the_mean_of_the_long_ones_that_were_timed():
    contamination = StepCost("contamination", None, ("solar",))
    assert expected_seconds(contamination, [(UPSCALED, 1.0)]) == (None, False)
    timed = [(UPSCALED, 1.0), (SOLAR, 60.0), (SCORES["scored_0"], 12.0)]
    assert expected_seconds(contamination, timed) == (36.0, False)
    assert expected_seconds(contamination, [*timed, (contamination, 7.0)]) == (7.0, True)


@pytest.mark.parametrize(("seconds", "mean"), [([2.0], 2.0), ([1.0, 3.0], 2.0)])
def test_a_short_step_takes_the_mean_of_its_stage_and_before_that_no_time(seconds, mean):
    assert expected_seconds(UPSCALED, [(SOLAR, 60.0)]) == (0.0, False)
    assert expected_seconds(UPSCALED, [(SOLAR, 60.0), *((UPSCALED, one) for one in seconds)]) == (mean, True)
