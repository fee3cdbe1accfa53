"""All steps of a plan, one after the other or side by side."""

from solar_repro.plan.costs import estimated_flops
from solar_repro.plan.step import Step, ordered
from solar_repro.running.jobs import make_side_by_side
from solar_repro.running.runner import Runner
from solar_repro.safety.redact import printable
from solar_repro.terminal import events
from solar_repro.terminal.events import PlanEvent
from solar_repro.terminal.remaining import StepCost


def make_all(runner: Runner, targets: list[Step]) -> None:
    """Make every target and all that it is made from. The run of the command records which runs those are."""
    steps = ordered(targets)
    show_plan(runner, targets, whole=True)
    jobs = runner.execution.jobs
    if jobs > 1:
        missing = []
        for step in steps:
            runner.position = (len(runner.reused) + 1, len(steps))
            with runner.lock(step) as unlocked:
                if runner.cached(step, not unlocked) is None:
                    missing.append(step)
        if missing:
            runner.made |= make_side_by_side(runner, missing, jobs, len(steps))
    made = []
    for number, step in enumerate(steps, start=1):
        runner.position = (number, len(steps))
        made.append((step, runner.get(step)))
    runner.tracker.log_steps(made)


def show_plan(runner: Runner, targets: list[Step], whole: bool = False) -> None:
    """Tell the live display, where there is one, which steps there are and what each costs.

    `whole` says that every step is made, also those that finished steps were made from.
    """
    if events.listener is None:
        return
    steps = ordered(targets)
    costs = {
        step.key: StepCost(
            step.stage,
            estimated_flops(step, runner.shape),
            tuple(parent.key for parent in step.inputs.values()),
        )
        for step in steps
    }
    labels = tuple(printable(step.label) for step in steps)
    events.listener(PlanEvent(costs, labels, runner.execution.jobs, whole))
