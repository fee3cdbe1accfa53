"""The scores of one model: what `scores.json` holds. Light to import."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solar_repro.errors import UserError

SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class ColumnScore:
    """One benchmark's score in percent; `stderr` is None where a single item leaves none."""

    score: float
    stderr: float | None
    items: int
    truncated: int
    """Items of which at least one prompt lost its beginning to the model's context length."""
    metric: str
    shots: int
    limit: int | None


@dataclass(frozen=True)
class Scores:
    """H6 and its columns, in percent, with all that decides them."""

    h6: float | None
    """Plain mean of the six columns; None unless all six were scored."""
    h6_stderr: float | None
    columns: Mapping[str, ColumnScore]
    mmlu_weighted: float | None
    """MMLU as the harness's group has it, subjects weighted by size; `columns` holds the plain mean."""
    gsm8k_flexible: float | None
    gsm8k_flexible_stderr: float | None
    tasks: Mapping[str, Mapping[str, Any]]
    """By harness task (57 of MMLU): score, stderr, items, split size, version, hashes of docs, prompts."""
    settings: Mapping[str, Any]
    """Model digest, versions, seeds, dtype, batching, context length, handling of BOS."""

    def metrics(self) -> dict[str, float]:
        """Flat figures by the names every run logs: H6, ARC, …, each with `<name>_stderr`, and the extras."""
        flat: dict[str, float | None] = {"H6": self.h6, "H6_stderr": self.h6_stderr}
        for name, column in self.columns.items():
            flat[name], flat[f"{name}_stderr"] = column.score, column.stderr
            flat[f"{name}_truncated"] = column.truncated
        flat["MMLU_weighted"] = self.mmlu_weighted
        flat["GSM8K_flexible"], flat["GSM8K_flexible_stderr"] = (
            self.gsm8k_flexible,
            self.gsm8k_flexible_stderr,
        )
        return {name: float(value) for name, value in flat.items() if value is not None}

    def table(self) -> str:
        """The scores for a terminal: a line each, with standard error and number of items."""
        lines = [f"{'H6':<12} {_percent(self.h6, self.h6_stderr)}"] if self.h6 is not None else []
        for name, column in self.columns.items():
            cut = f", {column.truncated} truncated" if column.truncated else ""
            score = _percent(column.score, column.stderr)
            lines.append(f"{name:<12} {score}  ({column.items} items{cut})")
        return "\n".join(lines)


def _percent(score: float, stderr: float | None) -> str:
    return f"{score:6.2f}" + (f" ± {stderr:.2f}" if stderr is not None else "")


def write_scores(scores: Scores, folder: Path) -> None:
    """Write `scores.json` whole or not at all."""
    path = folder / SCORES_FILE
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(dataclasses.asdict(scores), indent=1, ensure_ascii=False) + "\n")
    os.replace(partial, path)


def read_scores(folder: Path | str) -> Scores:
    """The scores an evaluation left in this folder; UserError where there are none."""
    path = Path(folder) / SCORES_FILE
    try:
        fields = json.loads(path.read_text())
        columns = {name: ColumnScore(**column) for name, column in fields.pop("columns").items()}
        return Scores(columns=columns, **fields)
    except OSError as error:
        raise UserError(f"{path}: no scores here; run evaluate on this model first") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a scores file ({error}); evaluate the model again") from error
