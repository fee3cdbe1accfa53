"""The events of progress, and who hears of them: the live display, here or in another process."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from solar_repro.terminal.remaining import Work

State = Literal["waiting", "begun", "made", "found", "failed"]


class Planned(NamedTuple):
    """What shall be made: the steps by key, and how many of them side by side."""

    works: Mapping[str, Work]
    labels: tuple[str, ...]
    jobs: int


class Turn(NamedTuple):
    """What has become of a step."""

    key: str
    label: str
    stage: str
    position: tuple[int, int]
    """Number of the step, and of how many; (0, 0) where steps are not counted."""
    state: State
    text: str
    """What a plain line says of it."""
    seconds: float = 0.0
    """That it took, once it is made."""
    note: str = ""
    """What came of it, such as a score."""


class Told(NamedTuple):
    """How far one piece of work is."""

    work: str
    """Tells it from others."""
    key: str
    """Of the step that it belongs to; empty where there is none."""
    label: str
    done: int
    total: int
    unit: str
    seconds: float
    note: str
    most: bool
    """Whether it takes most of its step's time."""
    ended: bool = False

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def left(self) -> float | None:
        """Seconds that it still takes at this rate; None where nothing is done yet."""
        return (self.total - self.done) / self.rate if self.rate and self.total else None


class Doing(NamedTuple):
    """What goes on beside the steps; empty once it is over."""

    text: str


Event = Planned | Turn | Told | Doing

listener: Callable[[Event], None] | None = None
"""Who hears of all progress: the live display, or in another process a connection to it."""
at_work = ""
"""Key of the step that this process makes."""
told_of = ""
"""What this process works on, in front of its lines where several processes write to one terminal."""
silent = False
"""Set where another process tells the same."""
