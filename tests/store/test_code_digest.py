"""What a key holds of code and libraries: all that decides a result, and no more."""

import sys
import textwrap

import pytest

from solar_repro.plan.plan import Plan
from solar_repro.plan.provenance import versions
from solar_repro.plan.step import STAGES
from solar_repro.scales.load import load_scale
from solar_repro.store import code_digest

WITHOUT_EFFECT = {"huggingface_hub", "matplotlib", "pydantic", "requests", "urllib3", "yaml"}
"""Libraries that stages import and that decide no result: they fetch, draw, check settings, read cards."""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of solar_repro: stage → helper; errors without effect."""
    for name, text in {
        "stage.py": "from solar_repro.helper import double\nfrom solar_repro import errors\n",
        "helper.py": '"""Doc."""\ndef double(x):\n    """Doc."""\n    return 2 * x  # twice\n',
        "errors.py": "class Error(Exception): pass\n",
        "other.py": "y = 1\n",
    }.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)

    def forget():
        code_digest.code_digest.cache_clear()
        code_digest._read.cache_clear()

    def digest():
        forget()
        return code_digest.code_digest("solar_repro.stage")

    yield tmp_path, digest
    forget()


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("helper.py", "def double(x):\n    return x + x\n", True),
        ("helper.py", '"""New."""\ndef double(x):\n    return 2 * x\n', False),
        ("other.py", "y = 2\n", False),
        ("errors.py", "class Error(ValueError): pass\n", False),
        ("stage.py", "from solar_repro.helper import double\nimport torch\n", True),
    ],
)
def test_only_code_that_makes_the_result_counts(package, file, text, changes):
    folder, digest = package
    before = digest()
    (folder / file).write_text(text)
    assert (digest() != before) is changes


def test_every_library_that_stages_import_counts_unless_it_is_named_as_without_effect():
    imported = set().union(*(code_digest.read_modules(f"solar_repro.stages.{stage}")[1] for stage in STAGES))
    assert imported - sys.stdlib_module_names == {*code_digest.LIBRARIES, "peft", *WITHOUT_EFFECT}
    assert not {"peft", *WITHOUT_EFFECT} & set(code_digest.LIBRARIES)


@pytest.mark.parametrize("distribution", ["math-verify", "sympy", "tokenizers", "torch"])
def test_a_library_of_another_version_makes_another_digest(monkeypatch, distribution):
    def digest() -> str:
        code_digest.code_digest.cache_clear()
        return code_digest.code_digest("solar_repro.stages.synth_math")

    before, version = digest(), code_digest.version
    with monkeypatch.context() as patch:
        patch.setattr(code_digest, "version", lambda name: "0" if name == distribution else version(name))
        after = digest()
    assert after != before == digest()


def test_optional_libraries_count_where_settings_ask_for_them(monkeypatch):
    def keys(**changes: str) -> tuple[str, str, str]:
        plan = Plan(load_scale("smoke", changes))
        return plan.model("solar").key, plan.model("sft_v1").key, plan.evaluation("base").key

    def with_version(number: str | None, **changes: str) -> tuple[str, str, str]:
        with monkeypatch.context() as patch:
            patch.setattr("solar_repro.plan.step.version", lambda name: number)
            return keys(**changes)

    lora, vllm = {"sft.lora.rank": "4"}, {"evaluate.backend.ARC": "vllm"}
    assert with_version(None) == with_version("1") == keys()
    for changes, moved in ((lora, {1}), (vllm, {2}), (lora | vllm, {1, 2})):
        before, after = with_version(None, **changes), with_version("1", **changes)
        assert {place for place in range(3) if before[place] != after[place]} == moved


def test_versions_are_those_that_keys_hold_as_far_as_they_are_installed(monkeypatch):
    found = versions()
    assert found.keys() > {"mlflow", "torch", "math-verify", "tokenizers"}
    monkeypatch.setattr("solar_repro.plan.provenance.version", lambda name: None if name == "peft" else "1")
    expected = {"mlflow", *code_digest.OPTIONAL}.union(*code_digest.LIBRARIES.values())
    assert versions().keys() == expected - {"peft"}
