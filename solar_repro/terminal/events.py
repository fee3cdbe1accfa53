"""Events that report progress, and what receives them: the live display, or a connection to its process."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from solar_repro.terminal.remaining import StepCost

StepState = Literal["waiting", "begun", "made", "found", "failed"]


class PlanEvent(NamedTuple):
    """The plan: its steps by key, and how many of them run side by side (`jobs`)."""

    works: Mapping[str, StepCost]
    labels: tuple[str, ...]
    jobs: int
    whole: bool = False
    """Whether every step is asked for; otherwise those behind a step that is finished are not needed."""


class StepEvent(NamedTuple):
    """A step has changed its state."""

    key: str
    label: str
    stage: str
    position: tuple[int, int]
    """The step's number and the number of steps; (0, 0) if steps are not counted."""
    state: StepState
    text: str
    """What a plain line says about it."""
    seconds: float = 0.0
    """How long it took, once it is made."""
    note: str = ""
    """Its result in a few words, such as a score."""


class WorkEvent(NamedTuple):
    """How far one piece of work has come."""

    id: str
    """Identifies the piece of work."""
    key: str
    """Key of the step that it belongs to; empty if there is none."""
    label: str
    done: int
    total: int
    unit: str
    seconds: float
    note: str
    is_main: bool
    """Whether this work takes most of its step's time."""
    ended: bool = False

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def left(self) -> float | None:
        """Remaining seconds at this rate; None before the first unit is done."""
        return (self.total - self.done) / self.rate if self.rate and self.total else None


class ActivityEvent(NamedTuple):
    """What goes on beside the steps; the text is empty once it is over."""

    text: str


Event = PlanEvent | StepEvent | WorkEvent | ActivityEvent

listener: Callable[[Event], None] | None = None
"""Receives all events: the live display, or in another process a connection to it; None prints lines."""
current_step = ""
"""Key of the step that this process makes."""
line_prefix = ""
"""Precedes each line of this process if several processes write to one terminal."""
silent = False
"""Whether this process prints nothing, because another one reports the same work."""
