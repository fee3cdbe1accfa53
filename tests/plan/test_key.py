"""What a key holds of stages and libraries: all that decides a result, and no more."""

import ast
import sys
from dataclasses import replace

import pytest

from solar_repro.contract import MergeSettings
from solar_repro.plan.plan import Plan
from solar_repro.plan.provenance import OPTIONAL, versions
from solar_repro.plan.step import Step
from solar_repro.scales.load import load_scale
from solar_repro.stages.table import STAGES
from solar_repro.store.versions import version
from tests.conftest import ROOT

WITHOUT_EFFECT = {
    *(
        "huggingface_hub",
        "matplotlib",
        "psutil",
        "pydantic",
        "pydantic_core",
        "requests",
        "rich",
        "urllib3",
        "yaml",
    ),
    *("lm_eval", "peft", "bitsandbytes", "deepspeed"),
}
"""Libraries that fetch, draw, show, or check settings. The harness counts for `evaluate` alone, the next two
where settings ask for them, and a launcher never."""
UNUSED = {
    "microworld": {"torch"},
    "upscale": {"torch", "transformers"},
    "merge": {"transformers"},
    "contaminate": {"scipy", "sklearn"},
}
"""What stages only look at the device with, prove layers with, or import with what they do not use."""
NAMES = {"math_verify": "math-verify", "sklearn": "scikit-learn"}
"""Distributions whose modules have other names."""


def imported(module: str, seen: set[str]) -> set[str]:
    """Libraries that a module of the project and all it imports of the project import."""
    file = ROOT.joinpath(*module.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    if module in seen or not file.is_file():
        return set()
    seen.add(module)
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.startswith("solar_repro"):
                found |= imported(name, seen)
            else:
                found.add(name.partition(".")[0])
    return found - sys.stdlib_module_names


@pytest.mark.parametrize("stage", STAGES)
def test_every_library_that_a_stage_imports_counts_unless_it_has_no_effect(stage):
    libraries = imported(f"solar_repro.stages.{stage}", set()) - WITHOUT_EFFECT - UNUSED.get(stage, set())
    assert {NAMES.get(name, name) for name in libraries} <= set(STAGES[stage].libraries)


def test_a_stage_of_another_version_has_another_key(monkeypatch):
    def keys() -> tuple[str, str, str]:
        plan = Plan(load_scale("smoke"))
        return plan.model("solar").key, plan.model("sft_v1").key, plan.model("dpo_v1").key

    before = keys()
    changed = {**STAGES, "sft": replace(STAGES["sft"], version=STAGES["sft"].version + 1)}
    monkeypatch.setattr("solar_repro.plan.step.STAGES", changed)
    after = keys()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, False]


def test_optional_libraries_count_where_settings_ask_for_them(monkeypatch):
    def keys(**changes: str) -> tuple[str, str]:
        plan = Plan(load_scale("smoke", changes))
        return plan.model("solar").key, plan.model("sft_v1").key

    def with_version(number: str | None, **changes: str) -> tuple[str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(
                "solar_repro.plan.step.version", lambda name: number if name in OPTIONAL else version(name)
            )
            return keys(**changes)

    assert with_version(None) == with_version("1") == keys()
    lora = {"sft.lora.rank": "4"}
    before, after = with_version(None, **lora), with_version("1", **lora)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_versions_are_those_that_keys_hold_as_far_as_they_are_installed(monkeypatch):
    found = versions()
    assert found.keys() > {"mlflow", "torch", "math-verify", "tokenizers"}
    monkeypatch.setattr("solar_repro.plan.provenance.version", lambda name: None if name == "peft" else "1")
    expected = {"mlflow", *OPTIONAL}.union(*(stage.libraries for stage in STAGES.values()))
    assert versions().keys() == expected - {"peft"}


def test_the_order_of_a_recipes_patterns_counts():
    patterns = {"*layers.1*": 0.1, "*mlp*": 0.9, "*": 0.5}
    swapped = {name: patterns[name] for name in ("*mlp*", "*layers.1*", "*")}
    keys = {Step("merge", "one", MergeSettings(method="slerp", t=t)).key for t in (patterns, swapped, 0.5)}
    assert len(keys) == 3
