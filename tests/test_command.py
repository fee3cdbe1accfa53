"""The command line of all entry points: options in full, no empty values, mistakes in one line."""

import errno
import re
from pathlib import Path

import pytest

from entry_points.command import (
    MODEL_OPTION,
    SEEDS,
    check_overrides,
    names_in,
    parse,
    run_main,
    variant_option,
)
from solar_repro.errors import UserError
from solar_repro.plan.plan import Plan
from tests.conftest import ROOT

OPTIONS = {
    "seeds": SEEDS,
    "model": MODEL_OPTION,
    "variant": variant_option("solar"),
    "runs": {},
    "delete": {"default": "false", "choices": ["true", "false"]},
}


def parsed(*arguments):
    return parse("What it does.", ["--scale", "check", *arguments], **OPTIONS)


def test_an_option_is_no_short_form_of_a_setting():
    found = parsed("--seed", "3")
    assert (found.options.seeds, found.scale.seed, found.overrides) == (1, 3, {"seed": "3"})
    with pytest.raises(UserError, match="unknown key 'mod'"):
        parsed("--mod", "x")


def test_no_parser_of_the_project_takes_short_forms():
    for folder in ("solar_repro", "entry_points", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            parsers = re.findall(r"ArgumentParser\((.{0,80})", text, re.DOTALL)
            full = [found for found in parsers if "allow_abbrev=False" in found or found.startswith("):")]
            assert len(full) == len(parsers), file


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize("option", ["scale", "store", "model", "variant", "runs"])
def test_an_empty_option_is_a_mistake(option, value):
    with pytest.raises(UserError, match=rf"\A--{option}: the value is empty; give one, or leave it out\Z"):
        parsed(f"--{option}={value}")


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize("setting", ["seed", "data.mirror", "sft.max_steps", "cand_1.beta", "base.model"])
def test_an_empty_setting_is_a_mistake(setting, value):
    with pytest.raises(
        UserError, match=rf"\Aoverride {setting}: the value is empty; give one, or leave it out\Z"
    ):
        parsed(f"--{setting}={value}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", ""), "argument --seeds: invalid int value: ''"),
        (("--seeds", "1.5"), "argument --seeds: invalid int value: '1.5'"),
        (("--delete", "yes"), "argument --delete: invalid choice: 'yes'"),
        (("--model",), "argument --model: expected one argument"),
        (("--sft.epochs",), "argument --sft.epochs: has no value; write it as --name value"),
    ],
)
def test_what_the_parser_refuses_is_one_line(arguments, message):
    with pytest.raises(UserError) as error:
        parsed(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_list_of_nothing_is_a_mistake():
    assert names_in(parsed().options, "runs") == []
    assert names_in(parsed("--runs", "a, b,").options, "runs") == ["a", "b"]
    with pytest.raises(UserError, match="--runs ,: contains no name"):
        names_in(parsed("--runs", ",").options, "runs")


def test_the_home_folder_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOLAR_STORE", "~/elsewhere")
    assert parsed().store == tmp_path / "elsewhere"
    assert parsed("--store", "~/s").store == tmp_path / "s"
    assert parsed("--model", "~/m").options.model == str(tmp_path / "m")
    found = parsed("--data.corpus.id", "~/texts", "--contamination.reference", "~/r").scale
    assert (found.data.corpus.id, found.contamination.reference) == (f"{tmp_path}/texts", f"{tmp_path}/r")
    monkeypatch.setenv("SOLAR_MIRROR", "~/hub")
    scale = parse("", ["--scale", "laptop", "--base.model", "~/b"]).scale
    assert (scale.data.mirror, scale.base.model) == (f"{tmp_path}/hub", f"{tmp_path}/b")


@pytest.mark.parametrize(
    "given",
    [
        ["--store", "~nobody-here/s"],
        ["--model", "~nobody-here/m"],
        ["--scale", "~nobody-here/s.yaml"],
        ["--data.corpus.id", "~nobody-here/texts"],
        ["--contamination.reference", "~nobody-here/r"],
    ],
)
def test_the_home_of_nobody_is_refused(given):
    with pytest.raises(UserError, match=r"~nobody-here/\w.* ~nobody-here is not known here") as refused:
        parsed(*given)
    assert "\n" not in str(refused.value)


def test_the_home_of_nobody_is_refused_for_the_cache_too(monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", "~nobody-here/cache")
    with pytest.raises(UserError, match="~nobody-here is not known"):
        parsed()


def test_too_many_open_files_are_one_line(capsys):
    def main():
        raise OSError(errno.EMFILE, "Too many open files", "/store/x")

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.endswith("Too many open files: '/store/x'; let more be open: ulimit -n 65536\n")


def test_a_full_disk_is_one_line_whichever_library_meets_it(capsys):
    def main():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("An error occurred while generating the dataset") from error

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"error: .*No space left on device; free some space, or set SOLAR_STORE.*\n", told)


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    monkeypatch.setenv("SOLAR_STORE", "")
    assert parsed().store == Path("store")


@pytest.mark.parametrize("name", ["HF_HOME", "HF_DATASETS_CACHE"])
def test_a_cache_that_cannot_be_written_is_one_line(monkeypatch, tmp_path, name):
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(name, str(tmp_path / "file" / "x"))
    with pytest.raises(
        UserError, match=rf"cache {tmp_path}/file/x.*: cannot be written \(.+\); set {name} to"
    ):
        parsed()


@pytest.mark.parametrize("chosen", ["evaluation", "model"])
def test_a_setting_that_the_candidate_has_of_its_own_is_refused(chosen):
    arguments = parsed("--dpo.learning_rate", "1e-3", "--dpo.beta", "0.2")
    step = getattr(Plan(arguments.scale), chosen)("cand_1")
    with pytest.raises(UserError) as refused:
        check_overrides(arguments, [step])
    line = (
        "dpo.learning_rate=1e-3 has no effect on cand_1: the scale sets cand_1.learning_rate=5e-05; set that"
    )
    assert str(refused.value) == line


def test_where_it_has_an_effect_on_others_a_line_says_on_whom_it_has_none(capsys):
    arguments = parsed("--dpo.learning_rate", "1e-3", "--sft.learning_rate", "1e-3")
    plan = Plan(arguments.scale)
    check_overrides(arguments, [plan.model("dpo_v2")])
    assert capsys.readouterr().err == ""
    check_overrides(arguments, [plan.model("dpo_v2"), plan.model("merge_v1")])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "dpo.learning_rate=1e-3 has no effect on cand_1 and cand_2: the scale sets "
        "cand_1.learning_rate=5e-05 and cand_2.learning_rate=0.0002; set that"
    )


def test_a_candidates_own_setting_is_taken(capsys):
    arguments = parsed("--cand_1.learning_rate", "1e-3", "--dpo.beta", "0.2")
    check_overrides(arguments, [Plan(arguments.scale).model("cand_1")])
    assert capsys.readouterr().err == ""
