"""The order of steps side by side, and the time that a plan takes."""

import pytest

from solar_repro.plan.schedule import hours_of_plan, ready_steps, startable, urgency
from tests.steps import bare_step

BASE = bare_step("base", "base")
TRAINED = bare_step("sft", "sft_v1", {"model": BASE})
SCORES = [bare_step("evaluate", step.variant, {"model": step}) for step in (BASE, TRAINED)]
STEPS = [BASE, SCORES[0], TRAINED, SCORES[1]]
HOURS = dict(zip((step.key for step in STEPS), (1.0, 2.0, 4.0, 2.0), strict=True))


def trains(step):
    return step.stage == "sft"


def nothing(step):
    return False


def test_what_most_others_wait_for_goes_first():
    urgent = urgency(STEPS)
    assert [urgent[step.key] for step in STEPS] == [3, 0, 1, 0]
    waiting = [SCORES[0], TRAINED, SCORES[1]]
    assert ready_steps(waiting, [step.key for step in waiting], urgent) == [TRAINED, SCORES[0]]


def test_a_step_that_takes_the_machine_is_alone_on_it():
    ready = [TRAINED, SCORES[0]]
    assert startable(ready, [], 2, nothing) == ready
    assert startable(ready, [BASE], 2, nothing) == [TRAINED]
    assert startable(ready, [], 2, trains) == [TRAINED]
    assert startable(ready, [BASE], 2, trains) == []
    assert startable([SCORES[0]], [TRAINED], 2, trains) == []


@pytest.mark.parametrize(
    ("jobs", "takes_all", "hours"),
    [(1, nothing, 9.0), (2, nothing, 7.0), (2, trains, 7.0), (8, trains, 7.0)],
)
def test_the_length_of_a_plan(jobs, takes_all, hours):
    # With several jobs the base's scores are made beside the training, or at the end beside the other scores.
    assert hours_of_plan(STEPS, HOURS, jobs, takes_all) == hours


def test_what_is_finished_is_no_part_of_it():
    assert hours_of_plan(STEPS[2:], HOURS, 2, nothing) == 6.0
    assert hours_of_plan([], {}, 2, nothing) == 0.0
