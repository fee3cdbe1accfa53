"""How long a plan still takes, from the steps that this run has timed and the arithmetic of the others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """A step of a plan, as far as its time goes."""

    stage: str
    operations: float | None
    """`costs.told_flops`: 0 of steps that take little time, None where no formula tells them."""
    inputs: tuple[str, ...] = ()
    """Keys of the steps that it needs."""


@dataclass(frozen=True)
class AtWork:
    """A step that is being made: its seconds so far, and what its own bar promises."""

    seconds: float
    left: float | None = None
    """By the bar of what it does now; None where that tells nothing."""
    most: bool = False
    """Whether that bar takes most of the step's time."""


@dataclass(frozen=True)
class Remaining:
    seconds: float
    rough: bool
    """Whether a stage remains of which no step was timed."""


def expected(work: Work, timed: Sequence[tuple[Work, float]]) -> tuple[float | None, bool]:
    """Seconds that a step takes, and whether timed steps of its own stage say so.

    Steps of its stage were timed: their mean, or in proportion to the operations, where a formula tells them.
    Else none for a step that takes little time; the speed of all timed steps, in operations; the mean of the
    timed steps that take long. None where nothing of that was timed.
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


def remaining(
    works: Mapping[str, Work],
    settled: Iterable[str],
    took: Mapping[str, float],
    at_work: Mapping[str, AtWork],
    jobs: int,
) -> Remaining | None:
    """Time until every step is settled; None as long as nothing tells it.

    `took`: seconds of the steps that were made in this run. A step at work takes what its own bar says, and
    at least what is expected of it. The sum is shared out between `jobs`; no chain of steps, each of which
    needs the one before, can take less than its own sum.
    """
    timed = [(works[key], seconds) for key, seconds in took.items() if key in works]
    timed += [
        (works[key], one.seconds + one.left)
        for key, one in at_work.items()
        if key in works and one.most and one.left is not None
    ]
    open_steps = works.keys() - set(settled)
    need: dict[str, float] = {}
    rough = False
    for key in open_steps:
        seconds, sure = expected(works[key], timed)
        now = at_work.get(key)
        if now is not None and now.most and now.left is not None:
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
