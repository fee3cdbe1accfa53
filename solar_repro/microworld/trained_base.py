"""The embedded base that ships with the package: trained once by this project, verified before it is used.

    python -m solar_repro.microworld.trained_base STORE/base-… STORE/base.evaluate-…

takes a base that `-P base.retrain=true` has trained, and its evaluation, into the package.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from solar_repro.errors import UserError
from solar_repro.microworld.tokenizer import stored_texts
from solar_repro.microworld.write import CORPUS
from solar_repro.safety.json_files import read_json, write_json
from solar_repro.scales.microworld import BaseTraining
from solar_repro.store.manifest import MANIFEST_FILE, verify_manifest, write_manifest
from solar_repro.store.result import METRICS

FIRST_DOCUMENTS = 2_000
"""Documents that tell one corpus from another: all are drawn from one stream."""
FOLDER = Path(__file__).parent / "trained_base"
RECORD = "training.json"
"""What made the base, beside its files: command, settings, versions, loss curve, scores."""
RETRAIN = "set -P base.retrain=true to train one (about 25 minutes on two cores)"
COMMAND = "mlflow run . -e evaluate --env-manager local -P scale={} -P base.retrain=true -P variant=base"


def shipped_base(settings: BaseTraining) -> tuple[BaseTraining, str]:
    """What the shipped base was trained with, and the sha256 of its manifest.

    Where `settings` ask for another training (precision `auto` asks for none): UserError.
    """
    trained = read_json(FOLDER / RECORD)["settings"]["base"]
    for name, value in settings.model_dump(mode="json").items():
        if trained.get(name) != value and (name, value) != ("precision", "auto"):
            raise UserError(
                f"base.training.{name} = {value!r}, but the shipped base has {trained.get(name)!r}; {RETRAIN}"
            )
    return BaseTraining(**trained), hashlib.sha256((FOLDER / MANIFEST_FILE).read_bytes()).hexdigest()


def copy_trained_base(out: Path, mirror: Path) -> None:
    """Copy the shipped base to `out`, once its files and the corpus it was trained on are what they were."""
    verify_manifest(FOLDER)
    if stored_corpus_digest(mirror) != read_json(FOLDER / RECORD)["corpus"]:
        raise UserError(
            f"world: its corpus is not the one that the shipped base was trained on; {RETRAIN}, "
            "or leave world.seed and the world's sizes as the scale has them"
        )
    for file in FOLDER.iterdir():
        if file.name not in (MANIFEST_FILE, RECORD):
            shutil.copyfile(file, out / file.name)


def corpus_digest(documents: Iterable[str], count: int) -> str:
    """sha256 of a corpus: its number of training documents, and the first of them."""
    digest = hashlib.sha256(f"{count} documents".encode())
    for text in islice(documents, FIRST_DOCUMENTS):
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()


def stored_corpus_digest(mirror: Path) -> str:
    """`corpus_digest` of a mirror's corpus."""
    import pyarrow.parquet as pq

    documents = (text for (text,) in stored_texts(mirror, CORPUS, "train", ["text"]))
    files = (mirror / CORPUS / "data").glob("train-*.parquet")
    return corpus_digest(documents, sum(pq.read_metadata(file).num_rows for file in files))


def ship(base: Path, evaluation: Path, folder: Path = FOLDER) -> None:
    """Take a finished base result and its evaluation into the package, in place of what is there."""
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
