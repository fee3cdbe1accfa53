"""The state of unfinished work, kept beside its result's place until the result is published.

A training keeps checkpoints there, an evaluation the answers so far. A run that was killed resumes from them.
"""

import re
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from solar_repro.safety.redact import printable
from solar_repro.store.disk import flush_folder, flush_path, make_shared_folder, share_with_group
from solar_repro.store.leftovers import delete, original_of_damaged, set_aside_damaged
from solar_repro.store.manifest import ManifestError, verify_manifest, write_manifest

RESUME_METRICS = "metrics.jsonl"
"""File of a checkpoint with the metrics that were logged up to it."""
_RUN = "run"
_CHECKPOINT = re.compile(r"checkpoint-([0-9]+)")


def resume_folder(result: Path) -> Path:
    """Return the folder that keeps the state of the unfinished work on a result."""
    return result.with_name(f".{result.name}.saved")


def result_of_resume_folder(folder: Path) -> Path | None:
    """Return the result whose unfinished work a folder keeps; None if it is no such folder."""
    match = re.fullmatch(r"\.(.+)\.saved", folder.name)
    return folder.with_name(match[1]) if match else None


def run_of_checkpoint(checkpoint: Path) -> str:
    """Return the id of the run that wrote a checkpoint."""
    return (checkpoint / _RUN).read_text()


@dataclass(frozen=True)
class ResumeFolder:
    """Where the state of one step's unfinished work is kept and, for a training, how often."""

    folder: Path
    minutes: float
    """Minutes between two checkpoints."""
    steps: int | None = None
    """Optimiser steps between two checkpoints; None goes by the minutes alone."""
    run_id: str = ""
    """The run that the training belongs to."""

    @property
    def unfinished(self) -> Path:
        """The folder in which checkpoints are written, each under its final name."""
        return self.folder / "writing"

    def new_checkpoint(self, step: int) -> Path:
        """Return the folder to write the checkpoint after `step` to; then call `publish_checkpoint`."""
        return self.unfinished / f"checkpoint-{step}"

    def is_due(self, step: int, saved_at: float) -> bool:
        """Whether to write a checkpoint after `step`; the last was at `saved_at` of the monotonic clock."""
        by_steps = self.steps is not None and step % self.steps == 0
        return by_steps or time.monotonic() - saved_at >= 60 * self.minutes

    def newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint, None if there is none."""
        found = self._checkpoints()
        return found[max(found)] if found else None

    def intact_checkpoint(self) -> Path | None:
        """Return the newest checkpoint whose manifest verifies, None if there is none.

        Damaged ones are renamed, and a line on stderr names each. Raises UserError if one cannot be read or
        renamed.
        """
        while (checkpoint := self.newest_checkpoint()) is not None:
            try:
                verify_manifest(checkpoint)
            except ManifestError as error:
                aside = set_aside_damaged(checkpoint)
                print(
                    printable(f"saved state {error}; renamed to {aside.name}, the state before it is used"),
                    file=sys.stderr,
                    flush=True,
                )
            else:
                return checkpoint
        return None

    def remove_old_checkpoints(self) -> None:
        """Remove all checkpoints but the newest, to fall back to, before another is written."""
        newest = self.newest_checkpoint()
        for other in self._checkpoints().values():
            if other != newest:
                shutil.rmtree(other)
        shutil.rmtree(self.unfinished, ignore_errors=True)
        make_shared_folder(self.folder)
        make_shared_folder(self.unfinished)

    def publish_checkpoint(self, checkpoint: Path, metrics: Path) -> None:
        """Add the metrics so far to a written checkpoint and move it to its place, whole or not at all."""
        (checkpoint / _RUN).write_text(self.run_id)
        shutil.copyfile(metrics, checkpoint / RESUME_METRICS)
        write_manifest(checkpoint)
        share_with_group(checkpoint)
        flush_folder(checkpoint)
        checkpoint.rename(self.folder / checkpoint.name)
        flush_path(self.folder)

    def _checkpoints(self) -> dict[int, Path]:
        """The published checkpoints by their steps, without those that were renamed as damaged."""
        found = self.folder.glob("checkpoint-*")
        return {int(match[1]): path for path in found if (match := _CHECKPOINT.fullmatch(path.name))}

    def remove(self) -> None:
        """Remove what was kept, once the result is published; what was renamed as damaged stays."""
        for path in self.folder.glob("*"):
            if original_of_damaged(path) is None:
                delete(path)
        with suppress(OSError):  # there is none if nothing was saved
            self.folder.rmdir()


def job_file(result: Path) -> Path:
    """Return the file that describes a training in several processes while it makes a result."""
    return result.with_name(f".{result.name}.job.json")


def result_of_job_file(file: Path) -> Path | None:
    """Return the result that a job file is for; None if it is no job file."""
    match = re.fullmatch(r"\.(.+)\.job\.json", file.name)
    return file.with_name(match[1]) if match else None
