"""The embedded base that ships with the package; this project trained it, and each use verifies it first.

    python -m solar_repro.microworld.trained_base STORE/base-… STORE/base.evaluate-…

takes a base that `-P base.retrain=true` has trained, and its evaluation, into the package.

Every plan imports this module. What needs PyArrow is therefore imported where a base is copied or shipped.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from solar_repro.errors import UserError
from solar_repro.safety.json_files import read_json, write_json
from solar_repro.scales.microworld import BaseTraining
from solar_repro.store.manifest import MANIFEST_FILE, verify_manifest, write_manifest
from solar_repro.store.result import METRICS

FOLDER = Path(__file__).parent / "trained_base"
RECORD = "training.json"
"""The file that says how the base was made: command, settings, versions, loss curve, scores."""
RETRAIN = "set -P base.retrain=true to train one (about 25 minutes on two cores)"
COMMAND = "mlflow run . -e evaluate --env-manager local -P scale={} -P base.retrain=true -P variant=base"


def shipped_base(settings: BaseTraining) -> tuple[BaseTraining, str]:
    """The settings that the shipped base was trained with, and the sha256 of its manifest.

    Raises UserError where `settings` ask for another training; precision `auto` asks for none.
    """
    trained = read_json(FOLDER / RECORD)["settings"]["base"]
    for name, value in settings.model_dump(mode="json").items():
        if trained.get(name) != value and (name, value) != ("precision", "auto"):
            raise UserError(
                f"base.training.{name} = {value!r}, but the shipped base has {trained.get(name)!r}; {RETRAIN}"
            )
    return BaseTraining(**trained), hashlib.sha256((FOLDER / MANIFEST_FILE).read_bytes()).hexdigest()


def copy_trained_base(out: Path, mirror: Path) -> None:
    """Copy the shipped base to `out`.

    Raises an error if its files are damaged, and UserError if the mirror's corpus is not the one that the
    base was trained on.
    """
    from solar_repro.microworld.stored_corpus import stored_corpus_digest

    verify_manifest(FOLDER)
    if stored_corpus_digest(mirror) != read_json(FOLDER / RECORD)["corpus"]:
        raise UserError(
            f"world: its corpus is not the one that the shipped base was trained on; {RETRAIN}, "
            "or leave world.seed and the world's sizes as the scale has them"
        )
    for file in FOLDER.iterdir():
        if file.name not in (MANIFEST_FILE, RECORD):
            shutil.copyfile(file, out / file.name)


def ship(base: Path, evaluation: Path, folder: Path = FOLDER) -> None:
    """Replace the package's base by a finished one, and record how that was made and evaluated.

    Raises UserError if the evaluation is of another model.
    """
    from solar_repro.microworld.stored_corpus import stored_corpus_digest

    made = read_json(base / "solar" / "provenance.json")
    if read_json(evaluation / "solar" / "provenance.json")["inputs"]["model"][1] != made["key"]:
        raise UserError(f"{evaluation}: scores another model than {base}; give the evaluation of that base")
    label, key = made["inputs"]["mirror"]
    mirror = base.parent / f"{label}-{key[:8]}"
    world = read_json(mirror / "solar" / "provenance.json")["settings"]["world"]
    rows = [json.loads(line) for line in (base / METRICS).read_text().splitlines()]
    scores = [json.loads(line) for line in (evaluation / METRICS).read_text().splitlines()]
    record: dict[str, Any] = {
        "command": COMMAND.format("smoke"),
        "settings": {"world": world, "base": made["settings"]["base"]},
        "corpus": stored_corpus_digest(mirror),
        "versions": made["versions"],
        "scores": {row["key"]: round(row["value"], 4) for row in scores},
        "validation_loss": next(row["value"] for row in rows if row["key"] == "validation_loss"),
        "loss": [[row["step"], round(row["value"], 4)] for row in rows if row["key"] == "loss"],
    }
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("solar", MANIFEST_FILE))
    write_json(folder / RECORD, record)
    write_manifest(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path)
    parser.add_argument("evaluation", type=Path)
    chosen = parser.parse_args()
    ship(chosen.base, chosen.evaluation)
