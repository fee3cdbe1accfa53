"""The scores of one model, as `scores.json` holds them. Commands that print scores import this alone."""

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
    """One benchmark's score in percent."""

    score: float
    stderr: float | None
    """None where a benchmark, or one of its subjects, has a single item."""
    items: int
    truncated: int
    """Items with a prompt that lost its beginning, for it did not fit the model's context."""
    metric: str
    shots: int
    limit: int | None
    """The number of items asked for (per subject of MMLU); None asks for all."""


@dataclass(frozen=True)
class Scores:
    """H6 and its columns, in percent, with everything that decides them."""

    h6: float | None
    """The plain mean of the six columns; None unless all six were scored."""
    h6_stderr: float | None
    columns: Mapping[str, ColumnScore]
    mmlu_weighted: float | None
    """MMLU with its subjects weighted by size, as in the harness; `columns` holds the plain mean."""
    gsm8k_flexible: float | None
    """GSM8K with the harness's lenient filter, which takes the last number of an answer."""
    gsm8k_flexible_stderr: float | None
    tasks: Mapping[str, Mapping[str, Any]]
    """Score, stderr, items, split size, version, hashes of docs and prompts, by harness task (57 of MMLU)."""
    settings: Mapping[str, Any]
    """Model digest, versions, seeds, dtype, batching, context length and the handling of BOS."""

    def metrics(self) -> dict[str, float]:
        """The metrics that runs log, by name: H6, ARC, …, with `<name>_stderr`, and further scores."""
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
        """The scores as lines for a terminal, with standard errors and numbers of items."""
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
    """The scores that an evaluation wrote into a folder; UserError where there are none."""
    path = Path(folder) / SCORES_FILE
    try:
        fields = json.loads(path.read_text())
        columns = {name: ColumnScore(**column) for name, column in fields.pop("columns").items()}
        return Scores(columns=columns, **fields)
    except OSError as error:
        raise UserError(f"{path}: no scores here; run evaluate on this model first") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a scores file ({error}); evaluate the model again") from error
