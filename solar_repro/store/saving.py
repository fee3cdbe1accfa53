"""The state of long work, kept until its result is published, so that what was killed can go on.

Of a training that is its checkpoints, of an evaluation the answers so far.
"""

import re
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from solar_repro.safety.redact import printable
from solar_repro.store.manifest import ManifestError, verify_manifest, write_manifest
from solar_repro.store.publish import (
    discard,
    flush,
    flush_entry,
    set_aside,
    set_aside_from,
    share,
    shared_folder,
)

ROWS = "metrics.jsonl"
"""The metrics up to a saved state."""
_RUN = "run"
_STATE = re.compile(r"checkpoint-([0-9]+)")


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

    @property
    def writing(self) -> Path:
        """Where states are written before they have their place, each under its name there."""
        return self.folder / "writing"

    def state(self, step: int) -> Path:
        """The folder to write the state after a step to; `finish` gives it its place."""
        return self.writing / f"checkpoint-{step}"

    def is_due(self, step: int, saved_at: float) -> bool:
        """Whether to save after a step; `saved_at` by the monotonic clock."""
        by_steps = self.steps is not None and step % self.steps == 0
        return by_steps or time.monotonic() - saved_at >= 60 * self.minutes

    def newest(self) -> Path | None:
        """The last state; None where there is none."""
        states = self._states()
        return states[max(states)] if states else None

    def sound(self) -> Path | None:
        """The last state that is as it was written: damaged ones after it are set aside and told of.

        Raises UserError where one cannot be read, or not be set aside.
        """
        while (state := self.newest()) is not None:
            try:
                verify_manifest(state)
            except ManifestError as error:
                aside = set_aside(state)
                print(
                    printable(f"saved state {error}; renamed to {aside.name}, the state before it is used"),
                    file=sys.stderr,
                    flush=True,
                )
            else:
                return state
        return None

    def make_room(self) -> None:
        """Before a state is written: keep the last one, to fall back to, and what was set aside."""
        newest = self.newest()
        for other in self._states().values():
            if other != newest:
                shutil.rmtree(other)
        shutil.rmtree(self.writing, ignore_errors=True)
        shared_folder(self.folder)
        shared_folder(self.writing)

    def finish(self, state: Path, metrics: Path) -> None:
        """Give a written state its place, with the metrics up to it: whole and on the disk, or not at all."""
        (state / _RUN).write_text(self.run_id)
        shutil.copyfile(metrics, state / ROWS)
        write_manifest(state)
        share(state)
        flush(state)
        state.rename(self.folder / state.name)
        flush_entry(self.folder)

    def _states(self) -> dict[int, Path]:
        """The finished states by their steps, those that were set aside not among them."""
        found = self.folder.glob("checkpoint-*")
        return {int(match[1]): path for path in found if (match := _STATE.fullmatch(path.name))}

    def remove(self) -> None:
        """Remove what was saved, whose result is published; what was set aside as damaged stays."""
        for path in self.folder.glob("*"):
            if set_aside_from(path) is None:
                discard(path)
        with suppress(OSError):  # there is none where nothing was saved
            self.folder.rmdir()


def job_file(result: Path) -> Path:
    """Where a training that runs in several processes is written down while it makes a result."""
    return result.with_name(f".{result.name}.job.json")


def job_for(file: Path) -> Path | None:
    """The result that a job file is for; None of any other."""
    match = re.fullmatch(r"\.(.+)\.job\.json", file.name)
    return file.with_name(match[1]) if match else None
