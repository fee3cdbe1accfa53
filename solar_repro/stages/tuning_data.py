"""The tuning sets of Table 1 for the training stages: located, filtered (Table 8), capped, reported."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.data.filters import table_8_filter
from solar_repro.data.locate import folder_location, locate
from solar_repro.data.sources import Rows, load_instruction, load_preferences
from solar_repro.stages import NOTES, Log

if TYPE_CHECKING:
    from solar_repro.data.locate import Location


def instruction_rows(chosen: dict[str, Any], seed: int, mirror: Path | None, synth_math: Path | None) -> Rows:
    """Rows of one instruction set, without those of its `filtered_tasks` (Table 8, OpenOrca)."""
    location = location_of(chosen, mirror, synth_math and synth_math / "instruct")
    row_filter = None
    if filtered_tasks := chosen.get("filtered_tasks"):
        row_filter = table_8_filter(location, mirror, filtered_tasks)
    most = chosen.get("maximum_samples")
    return load_instruction(chosen["name"], location, max_samples=most, seed=seed, row_filter=row_filter)


def preference_rows(chosen: dict[str, Any], seed: int, mirror: Path | None, synth_math: Path | None) -> Rows:
    """Rows of one preference set."""
    location = location_of(chosen, mirror, synth_math and synth_math / "alignment")
    return load_preferences(chosen["name"], location, max_samples=chosen.get("maximum_samples"), seed=seed)


def location_of(chosen: dict[str, Any], mirror: Path | None, synthesised: Path | None) -> "Location":
    """Where a chosen set lies: mirror, hub, or the folder that `synth_math` has written."""
    if chosen["id"] == "synth_math":
        return folder_location(synthesised)
    return locate(chosen["id"], mirror)


def log_reports(out: Path, log: Log, reports: dict[str, dict[str, Any]]) -> None:
    """Keep what became of every set's rows as `data.json`, and its counts as metrics `data/<set>/…`."""
    (out / NOTES).mkdir(exist_ok=True)
    text = json.dumps(reports, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    (out / NOTES / "data.json").write_text(text + "\n", encoding="utf-8")
    for name, report in reports.items():
        figures = {"rows_in": report["rows"]["rows_in"], "used": report["tokens"]["kept"]}
        figures["tokens"] = report["tokens"]["tokens"]
        for task, rows in report["rows"].get("filter", {}).get("removed", {}).items():
            figures[f"removed/{task}"] = rows
        log({f"data/{name}/{figure}": value for figure, value in figures.items()})
