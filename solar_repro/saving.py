"""The state of long work, kept until its result is published, so that what was killed can go on.

Of a training that is its checkpoints, of an evaluation the answers so far.
"""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

ROWS = "metrics.jsonl"
"""The metrics up to a saved state. Written last: a state without it was cut off and does not count."""
_RUN = "run"


def saving_folder(result: Path) -> Path:
    """Where the state of the work that makes a result is kept: beside it, under the result's own name."""
    return result.with_name(f".{result.name}.saved")


def saved_for(folder: Path) -> Path | None:
    """The result that a folder holds the unfinished work of; None of any other folder."""
    match = re.fullmatch(r"\.(.+)\.saved", folder.name)
    return folder.with_name(match[1]) if match else None


def run_of(state: Path) -> str:
    """The run that a saved state belongs to."""
    return (state / _RUN).read_text()


@dataclass(frozen=True)
class Saving:
    """Where the state of a step's work is kept, and of a training how often."""

    folder: Path
    minutes: float
    steps: int | None = None
    run_id: str = ""
    """The run that the training belongs to."""

    def state(self, step: int) -> Path:
        """The folder that holds the state after a step."""
        return self.folder / f"checkpoint-{step}"

    def is_due(self, step: int, saved_at: float) -> bool:
        """Whether to save after a step; `saved_at` by the monotonic clock."""
        by_steps = self.steps is not None and step % self.steps == 0
        return by_steps or time.monotonic() - saved_at >= 60 * self.minutes

    def newest(self) -> Path | None:
        """The last whole state."""
        whole = [rows.parent for rows in self.folder.glob(f"checkpoint-*/{ROWS}")]
        return max(whole, key=lambda state: int(state.name.rpartition("-")[2]), default=None)

    def finish(self, state: Path, metrics: Path) -> None:
        """Declare a state whole, together with the metrics up to it, and remove those before it."""
        (state / _RUN).write_text(self.run_id)
        shutil.copyfile(metrics, state / ".rows")
        (state / ".rows").rename(state / ROWS)
        for other in self.folder.glob("checkpoint-*"):
            if other != state:
                shutil.rmtree(other)

    def remove(self) -> None:
        """Remove all states: the result is published."""
        shutil.rmtree(self.folder, ignore_errors=True)  # there is none where nothing was saved
