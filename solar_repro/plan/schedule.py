"""In which order the steps of a plan are made side by side, and how long that takes."""

from collections.abc import Callable, Iterable, Mapping

from solar_repro.plan.step import Step


def urgency(steps: Iterable[Step]) -> dict[str, int]:
    """For each step, by key, how many of the others wait for it."""
    waiting = {step.key: step for step in steps}
    found = dict.fromkeys(waiting, 0)
    for step in waiting.values():
        for key in _ancestors(step) & found.keys():
            found[key] += 1
    return found


def startable(
    ready: list[Step], running: list[Step], jobs: int, takes_all: Callable[[Step], bool]
) -> list[Step]:
    """Those of the steps that are ready, the most urgent first, that may start now.

    A step that takes the whole machine waits until nothing runs, and while it is ready or runs nothing else
    starts.
    """
    if any(map(takes_all, running)):
        return []
    if alone := [step for step in ready if takes_all(step)]:
        return [] if running else alone[:1]
    return ready[: jobs - len(running)]


def ready_steps(waiting: Iterable[Step], unmade: Iterable[str], urgent: Mapping[str, int]) -> list[Step]:
    """The steps that need none of the `unmade` ones (keys), the most urgent first."""
    missing = set(unmade)
    found = [step for step in waiting if not _inputs(step) & missing]
    return sorted(found, key=lambda step: -urgent[step.key])


def hours_of_plan(
    steps: list[Step], hours: Mapping[str, float], jobs: int, takes_all: Callable[[Step], bool]
) -> float:
    """How long the steps take that take so many hours each, by key, `jobs` at a time."""
    urgent = urgency(steps)
    waiting = {step.key: step for step in steps}
    running: dict[str, float] = {}
    by_key, now = dict(waiting), 0.0
    while waiting or running:
        ready = ready_steps(waiting.values(), waiting.keys() | running.keys(), urgent)
        for step in startable(ready, [by_key[key] for key in running], jobs, takes_all):
            del waiting[step.key]
            running[step.key] = now + hours[step.key]
        now = min(running.values())
        running = {key: end for key, end in running.items() if end > now}
    return now


def _inputs(step: Step) -> set[str]:
    return {parent.key for parent in step.inputs.values()}


def _ancestors(step: Step) -> set[str]:
    return _inputs(step).union(*(_ancestors(parent) for parent in step.inputs.values()))
