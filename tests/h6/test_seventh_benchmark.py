"""A benchmark is added as docs/house.md says, in a copy of the code, and scored with the paper's six."""

import json
import os
import random
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.tiny_benchmarks import SUBJECTS, sentence, write_benchmark

LAST_ENTRY = ')\n"""In the order of the paper\'s columns."""'


def yes_or_no(generator: random.Random, number: int) -> dict:
    question, passage = sentence(generator, 6), sentence(generator, 12)
    return {"question": question, "passage": passage, "idx": number, "label": generator.randrange(2)}


@pytest.mark.slow
def test_the_benchmark_that_the_page_adds_is_scored(mirror, model, tmp_path):
    for package in ("solar_repro", "benchmarks", "entry_points"):
        shutil.copytree(ROOT / package, tmp_path / package)
    page = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    entry = page.partition("### A benchmark")[2].partition("```python\n")[2].partition("```")[0].strip()
    table = tmp_path / "solar_repro" / "paper" / "benchmarks.py"
    code = table.read_text(encoding="utf-8")
    assert code.count(LAST_ENTRY) == code.count('"GSM8K"]\n') == 1
    code = code.replace('"GSM8K"]\n', '"GSM8K", "BoolQ"]\n')
    table.write_text(code.replace(LAST_ENTRY, f"    {entry},\n{LAST_ENTRY}"), encoding="utf-8")
    data = shutil.copytree(mirror, tmp_path / "mirror")
    rows = {"boolq": {"train": 6, "validation": 5}}
    write_benchmark(data / "aps" / "super_glue", yes_or_no, rows, random.Random(0))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for split in ("train", "validation"):
        (corpus / f"{split}.txt").write_text("the sun and the moon\n" * 40)
    settings = {
        "model": model,
        "store": tmp_path / "store",
        "base.model": model,
        "data.mirror": data,
        "data.corpus.id": corpus,
        "evaluate.subjects": json.dumps(SUBJECTS),
        "evaluate.limits": "{BoolQ: 4}",
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "entry_points.evaluate", "--scale", "laptop", *options],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path),
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "store").glob("*.evaluate-*/scores.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    scores = {name: column["score"] for name, column in found["columns"].items()}
    assert len(scores) == 7
    assert scores["BoolQ"] in (0, 25, 50, 75, 100)
    assert found["h6"] == pytest.approx(sum(scores.values()) / 7)
