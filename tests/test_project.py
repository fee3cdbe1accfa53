"""The project's own files agree with each other: MLproject, entry points, stages, pins, README."""

import json
import re
import subprocess
import sys
import tomllib
from itertools import chain

import pytest
import yaml

from benchmarks import reliability
from benchmarks.performance.checkpoint_results import table
from benchmarks.regression import FOLDER, read_baseline, scores_table
from entry_points.command import DEFAULT_SCALE
from solar_repro.paper import variants
from solar_repro.paper.data_sets import DATASETS
from solar_repro.plan.plan import Plan
from solar_repro.plan.step import ordered
from solar_repro.scales.load import load_scale, scale_names
from solar_repro.stages.table import STAGES
from tests.conftest import ROOT

MLPROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
NO_STAGE = {"main", "ablation", "plan", "gc", "compare", "regression"}


def modules(folder):
    return {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "command"}


def test_mlproject_entry_points_and_modules_are_the_same():
    assert set(MLPROJECT["entry_points"]) == modules("entry_points")
    for name, entry in MLPROJECT["entry_points"].items():
        assert entry["command"].startswith(f"python -m entry_points.{name} --scale {{scale}}")
        assert entry["parameters"]["scale"]["default"] == DEFAULT_SCALE
        for parameter in entry["parameters"]:
            assert f"--{parameter} {{{parameter}}}" in entry["command"]


def test_every_stage_has_an_entry_point_and_a_module():
    # `contamination -P control=positive`, a study of `ablation`, and `dpo` make these.
    others = {"contaminate", "untrained", "reference"}
    assert set(MLPROJECT["entry_points"]) - NO_STAGE == set(STAGES) - others
    assert set(STAGES) <= modules("solar_repro/stages")


def test_default_variants_exist_and_are_made_by_their_entry_point():
    for name, entry in MLPROJECT["entry_points"].items():
        if default := entry["parameters"].get("variant"):
            made_by = variants.variant(default["default"]).stage
            assert made_by == name or name in ("evaluate", "contamination")


def test_stage_functions_take_what_the_plan_gives_them(tmp_path):
    plan = Plan(load_scale(DEFAULT_SCALE))
    control = ordered([plan.contamination("base", positive=True), plan.untrained(["ranges:0-4,2-6"])])
    for step in [*plan.main(), *map(plan.data, DATASETS), *control]:
        stage = STAGES[step.stage]
        assert type(step.settings) is stage.settings
        stage.inputs.model_validate({**dict.fromkeys(step.inputs, tmp_path), **step.places})


def test_conda_and_pyproject_pin_the_same_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert sorted(pip) == sorted(project["dependencies"])
    assert f"python{project['requires-python']}" in conda["dependencies"]
    assert all("==" in pin for pin in chain(pip, *project["optional-dependencies"].values()))


def test_the_lock_file_has_every_pin_and_hashes():
    lock = (ROOT / "requirements-linux-cpu.lock").read_text(encoding="utf-8")
    entries = re.findall(
        r"^([\w.-]+)(?:\[[\w,-]+\])?==([\w.]+)(?:\+cpu)? ?(.*(?:\n    --hash.*)+)", lock, re.MULTILINE
    )
    locked = {name: version for name, version, _ in entries}
    assert len(entries) == len(re.findall(r"^[\w.-]+\S*==", lock, re.MULTILINE))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", hashes) for *_, hashes in entries)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = dict(
        pin.split("==") for pin in (*project["dependencies"], *project["optional-dependencies"]["test"])
    )
    assert {name: locked.get(name) for name in pins} == pins


@pytest.mark.parametrize("entry", sorted(modules("entry_points")))
def test_help_needs_no_heavy_library(entry):
    """`--help` names the scales; torch, transformers, trl, lm_eval, mlflow and rich stay unimported."""
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['{entry}', '--help']\n"
        f"try: runpy.run_module('entry_points.{entry}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'trl', 'lm_eval', 'mlflow', 'datasets', 'rich'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"name of a scale ({', '.join(scale_names())})" in " ".join(done.stdout.split())


def test_commands_in_readme_and_workflow_name_entry_points_and_parameters_that_exist():
    workflow = (ROOT / ".github/workflows/check.yml").read_text(encoding="utf-8")
    text = (ROOT / "README.md").read_text(encoding="utf-8") + workflow
    assert yaml.safe_load(workflow)["jobs"].keys() == {"tests", "regression"}
    assert ".ci/run" in workflow
    commands = re.findall(r"mlflow run \. ?-e (\w+)", text)
    assert {"regression", "compare", "ablation"} <= set(commands) <= set(MLPROJECT["entry_points"])


def test_readme_names_every_entry_point():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in MLPROJECT["entry_points"] if f"`{name}`" not in readme] == []


def test_the_measured_table_of_checkpoints_is_shown():
    page = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- checkpoint -->\n")[2].partition("\n<!-- /checkpoint -->")[0]
    results = json.loads((ROOT / "benchmarks" / "results" / "checkpoint.json").read_text(encoding="utf-8"))
    assert results["size"] == "full"
    assert shown == table(results).partition("\n\n")[0]


def test_the_scores_of_the_baseline_are_shown():
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- scores -->\n")[2].partition("\n<!-- /scores -->")[0]
    assert shown == scores_table(read_baseline(FOLDER / "smoke.json", "smoke"))


def test_the_fault_campaign_is_shown():
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- reliability -->\n")[2].partition("\n<!-- /reliability -->")[0]
    results = json.loads((ROOT / "benchmarks" / "results" / "reliability.json").read_text(encoding="utf-8"))
    assert results["differences"] == []
    assert results["faults"]["SIGKILL"]["tried"] >= 50
    assert f"The plan of scale `check`, {results['results']} steps, was cut off" in page
    assert shown == reliability.table(results)


@pytest.mark.parametrize("sharing", ["users", "containers"])
def test_the_fault_campaign_on_a_shared_store_is_shown(sharing):
    name = f"reliability-{sharing}"
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    shown = page.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]
    results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert results["sharing"] == sharing
    assert results["differences"] == []
    assert min(row["tried"] for row in results["faults"].values()) > 0
    assert f"of two {sharing}, whose undisturbed plan took {results['undisturbed_s']:.0f} s" in page
    assert shown == reliability.table(results)
