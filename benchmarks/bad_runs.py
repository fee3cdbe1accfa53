"""Finds the runs that our stages cannot have left; each is passed over, with a printed line.

Whoever may write to the tracking server may leave runs there, with any tags, parameters, metrics and files.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import H6_NAMES
from solar_repro.safety.redact import one_line, short_reason
from solar_repro.stages.table import STAGES
from solar_repro.store.manifest import ManifestError
from solar_repro.tracking.artifacts import ArtifactMissing
from solar_repro.tracking.server import is_temporary

if TYPE_CHECKING:
    from mlflow.entities import Run

LARGEST_LOSS = 1e4
LARGEST_COUNT = 1e15
LATEST = 1 << 53
"""The latest time of a run, in milliseconds, and the largest step."""
_NAME = re.compile(r"\w[\w.+ -]{0,99}")
_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_SEED = re.compile("0|[1-9][0-9]{0,9}")
_LONGEST_PARAMETER = 6000
_SCORES = {name for column in ("H6", *H6_NAMES) for name in (column, f"{column}_stderr")}
_COUNTS = ("data/", "parameters", "layers")
_SIZES = ("continue_pretrain.global_batch_size", "continue_pretrain.max_length")


def usable(runs: "Iterable[Run]") -> "list[Run]":
    """Return the runs that our stages can have left; for each other run, print what is wrong with it."""
    good = []
    for run in runs:
        if why := wrong_with(run):
            pass_over(run, why)
        else:
            good.append(run)
    return good


def wrong_with(run: "Run") -> str | None:
    """Say what is wrong with a run. Returns None for a run that is in order or of no stage."""
    tags = run.data.tags
    stage = tags.get("solar.stage")
    if not all(_ID.fullmatch(one) for one in (run.info.run_id, run.info.experiment_id)):
        return "its ids are no ids"
    times = getattr(run.info, "start_time", 0), run.info.end_time
    if not all(type(time) is int and 0 <= time <= LATEST for time in times) or times[0] > times[1]:
        return "its times are no times"
    if stage is None:
        return None
    if stage not in STAGES:
        return f"there is no stage {stage[:40]!r}"
    if (variant := tags.get("solar.variant")) is None:
        return "it has no tag solar.variant"
    if not _NAME.fullmatch(variant):
        return f"{variant[:40]!r} is no variant's name"
    if not _SEED.fullmatch(tags.get("solar.seed", "0")):
        return f"its seed is {tags['solar.seed'][:40]!r}"
    if not _is_object(tags.get("solar.parents", "")):
        return "its tag solar.parents is no JSON object"
    return _wrong_metric(run.data.metrics) or _wrong_parameter(stage, run.data.params)


def _wrong_metric(metrics: dict[str, Any]) -> str | None:
    for name, value in metrics.items():
        if (limits := _limits(name)) and not (_is_number(value) and limits[0] <= value <= limits[1]):
            return f"its metric {name[:80]} is {str(value)[:40]}"
    return None


def _limits(name: str) -> tuple[float, float] | None:
    """Return the range of a metric that comparisons read, or None for any other metric."""
    if name in _SCORES:
        return 0.0, 100.0
    if name in ("loss", "held_out_loss"):
        return 0.0, LARGEST_LOSS
    if name.startswith("contamination/"):
        return -LARGEST_LOSS, LARGEST_LOSS
    return (0.0, LARGEST_COUNT) if name.startswith(_COUNTS) else None


def _wrong_parameter(stage: str, parameters: dict[str, str]) -> str | None:
    for name, value in parameters.items():
        if len(value) > _LONGEST_PARAMETER:
            return f"its parameter {name[:80]} has {len(value):,} characters"
    for name in _SIZES if stage == "continue_pretrain" else ():
        if not re.fullmatch("[1-9][0-9]{0,9}", parameters.get(name, "")):
            return f"its parameter {name} is {parameters.get(name, 'missing')[:40]!r}"
    return None


def points(history: "Iterable[Any]") -> list[tuple[int, float]]:
    """Return a metric's history as (step, value) by ascending step, without points that cannot be drawn."""
    found = {
        point.step: point.value
        for point in history
        if _is_number(point.value) and abs(point.value) <= LARGEST_COUNT and 0 <= point.step <= LATEST
    }
    return sorted(found.items())


@contextmanager
def passing_over(run: "Run", what: str) -> Iterator[None]:
    """Where the block can make no sense of what a run has left, print a line and go on behind the block.

    What is another's fault, a connection that was lost or a file that may not be read, is raised.
    """
    try:
        yield
    except Exception as error:  # a file of others may be anything
        is_theirs = not isinstance(error, UserError) or isinstance(error, ArtifactMissing | ManifestError)
        if is_temporary(error) or not is_theirs:
            raise
        why = (
            short_reason(error)
            if isinstance(error, UserError)
            else f"{type(error).__name__}: {short_reason(error)}"
        )
        pass_over(run, f"its {what} cannot be used ({why})")


def pass_over(run: "Run", why: str) -> None:
    """Say that a run is passed over."""
    name = run.data.tags.get("solar.variant", "")[:40]
    line = f"run {run.info.run_id[:40]} {f'({name}) ' if name else ''}is passed over: {why}"
    print(one_line(line), file=sys.stderr, flush=True)


def count(value: Any) -> int:
    """Return a number of rows or tokens. Raises ValueError where `value` is none."""
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return value


def text(value: Any) -> str:
    """Return a name. Raises ValueError where `value` is none."""
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError(f"{str(value)[:40]!r} is no name")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_object(value: str) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        return False
