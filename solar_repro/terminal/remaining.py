"""How long a plan still takes, estimated from the steps timed in this run and the FLOPs of the others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepCost:
    """What decides how long a step of a plan takes."""

    stage: str
    operations: float | None
    """FLOPs (`costs.estimated_flops`): 0 for a step that takes little time, None if no formula gives them."""
    inputs: tuple[str, ...] = ()
    """Keys of the steps that this one needs."""


@dataclass(frozen=True)
class StepProgress:
    """A running step: its seconds so far, and the remaining time by its progress bar."""

    seconds: float
    left: float | None = None
    """Remaining seconds by the bar of what it does now; None if there is none yet."""
    is_main: bool = False
    """Whether that work takes most of the step's time."""


@dataclass(frozen=True)
class Remaining:
    """The estimated remaining time of a plan."""

    seconds: float
    rough: bool
    """Whether a stage remains of which no step was timed."""


def expected_seconds(work: StepCost, timed: Sequence[tuple[StepCost, float]]) -> tuple[float | None, bool]:
    """Return the seconds that a step takes, and whether timed steps of its own stage say so.

    If steps of its stage were timed, this is their mean, scaled by FLOPs if a formula gives them. Otherwise
    it is 0 for a step that takes little time, or follows from the FLOPs per second of all timed steps, or is
    the mean of all long steps. The seconds are None if no such step was timed.
    """
    heavy = [(one, seconds) for one, seconds in timed if one.operations != 0]
    of_stage = [pair for pair in timed if pair[0].stage == work.stage]
    if work.operations:
        heavy, of_stage = ([pair for pair in pairs if pair[0].operations] for pairs in (heavy, of_stage))
    if not of_stage and work.operations == 0:
        return 0.0, False
    pairs = of_stage or heavy
    if not pairs:
        return None, False
    seconds = sum(seconds for _, seconds in pairs)
    if not work.operations:
        return seconds / len(pairs), bool(of_stage)
    return seconds * work.operations / sum(one.operations for one, _ in pairs), bool(of_stage)


def remaining_time(
    works: Mapping[str, StepCost],
    settled: Iterable[str],
    took: Mapping[str, float],
    at_work: Mapping[str, StepProgress],
    jobs: int,
) -> Remaining | None:
    """Return the time until every step is settled, None as long as it cannot be estimated.

    `took` gives the seconds of the steps made in this run. A running step takes what its own bar says, and at
    least what is expected of it. `jobs` steps run side by side, but a chain of steps, each of which needs the
    one before, takes at least the sum of its steps.
    """
    timed = [(works[key], seconds) for key, seconds in took.items() if key in works]
    timed += [
        (works[key], one.seconds + one.left)
        for key, one in at_work.items()
        if key in works and one.is_main and one.left is not None
    ]
    open_steps = works.keys() - set(settled)
    need: dict[str, float] = {}
    rough = False
    for key in open_steps:
        seconds, sure = expected_seconds(works[key], timed)
        now = at_work.get(key)
        if now is not None and now.is_main and now.left is not None:
            need[key] = now.left
            continue
        if seconds is None:
            return None
        rough = rough or not sure
        need[key] = seconds if now is None else max(seconds - now.seconds, now.left or 0.0, 0.0)
    chains: dict[str, float] = {}

    def chain(key: str) -> float:
        if key not in chains:
            before = [chain(parent) for parent in works[key].inputs if parent in need]
            chains[key] = need[key] + max(before, default=0.0)
        return chains[key]

    longest = max(map(chain, need), default=0.0)
    return Remaining(max(longest, sum(need.values()) / jobs), rough)
