import re

import pytest
import yaml

from solar_repro.errors import UserError
from solar_repro.safety.plain_yaml import read_yaml
from solar_repro.scales import misspelt
from solar_repro.scales.explain import dotted_keys
from solar_repro.scales.load import FOLDER, load_scale, scale_names
from solar_repro.scales.settings import Scale


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sft.lr", "'sft.learning_rate'"),
        ("dpo.bs", "'dpo.global_batch_size'"),
        ("dpo.batch_size", "'dpo.global_batch_size'"),
        ("sft.num_epochs", "'sft.epochs'"),
        ("base.training.epochs", "'base.training.steps'"),
        ("continue_pretrain.wd", "'continue_pretrain.weight_decay'"),
        ("evaluate.dtype", "'evaluate.precision'"),
        ("sft.seq_len", "'sft.max_length'"),
        ("base.training.seq_len", "'base.training.context_length'"),
        ("base.training.bs", "'base.training.batch_size'"),
        ("contamination.control.lr", "'contamination.control.learning_rate'"),
        ("cand_1.lr", "'cand_1.learning_rate'"),
        ("sft.lora.lr", "'sft.learning_rate'"),
        ("dpo.beat", "'dpo.beta'"),
        ("data.num_proc", "'num_proc'"),
        ("sft.tokens", "'continue_pretrain.tokens'"),
        (
            "seq_len",
            "'continue_pretrain.max_length' or 'sft.max_length' or 'dpo.max_length' or 'cand_1.max_length' "
            "or 'cand_2.max_length' or 'contamination.control.max_length'",
        ),
    ],
)
def test_a_misspelt_key_suggests_the_setting_of_its_section_by_meaning(typed, meant):
    with pytest.raises(UserError) as caught:
        load_scale("check", {typed: "1"})
    assert str(caught.value).endswith(f"unknown key {typed!r}; did you mean {meant}?")


def test_every_alias_means_a_setting_that_exists():
    names = {path.rpartition(".")[2] for path in dotted_keys(Scale)}
    assert {meant for ours in misspelt.ALIASES.values() for meant in ours} <= names


@pytest.mark.parametrize("name", scale_names())
def test_every_scale_file_validates_and_opens_with_its_command(name):
    scale = load_scale(name)
    assert scale.name == name
    first = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# mlflow run . --env-manager local -P scale={name}"


@pytest.mark.parametrize(
    ("override", "value", "line"),
    [
        ("sft.lerning_rate", "1", "unknown key 'sft.lerning_rate'; did you mean 'sft.learning_rate'?"),
        ("sft.learning_rate", "fast", "sft.learning_rate = 'fast': input should be a valid number"),
        ("sft.learning_rate", "-1", "sft.learning_rate = -1: input should be greater than 0"),
        ("upscale.m", "0", "upscale.m = 0: input should be greater than 0"),
        ("dpo.global_batch_size", "15", "global_batch_size 15 is not a multiple of per_device_batch_size 16"),
        ("cand_1.betta", "1", "unknown key 'cand_1.betta'; did you mean 'cand_1.beta'?"),
        ("evaluate.limits.ARK", "1", "evaluate.limits.ARK"),
        (
            "evaluate.server.base_url",
            "localhost",
            "evaluate.server.base_url: is not a web address",
        ),
        ("contamination.k", "[0.2, 20]", "contamination.k.1 = 20: input should be less than or equal to 1"),
        ("contamination.k", "[]", "contamination.k"),
        ("contamination.control.epochs", "0", "contamination.control.epochs = 0: input should be greater"),
        ("data.stand_ins.orca", "a/b", "'orca' is not a data set of Table 1"),
        ("data.decontaminate", "[orca]", "decontaminate: 'orca' is not a data set of Table 1"),
        ("data.decontaminate", "[synth_math_instruct]", "have the same seeds; name both or neither"),
        ("data.math", "generate", "math: generate needs a model; set math_generation.model"),
        ("data.math_generation.model.x", "1", "data.math_generation.model = {'x': 1}"),
        ("name", "../../elsewhere", "name = '../../elsewhere': string should match pattern"),
        ("dpo.beta", "true", "dpo.beta: a number is needed, not true or false"),
        ("seed", "true", "seed: a number is needed, not true or false"),
        ("evaluate.limits", "{ARC: true}", "evaluate.limits: a number is needed, not true or false"),
        ("contamination.k", "[true]", "contamination.k: a number is needed, not true or false"),
        ("cand_1.beta", "true", "cand_1.beta: a number is needed, not true or false"),
        ("dpo.beta", "yes", "dpo.beta = 'yes': input should be a valid number"),
        ("sft.max_length", "2:00", "sft.max_length = '2:00': input should be a valid integer"),
        ("seed", "0x10", "seed = '0x10': input should be a valid integer"),
        ("seed", "-1", "seed = -1: input should be greater than or equal to 0"),
        ("seed", "4294967296", "seed = 4294967296: input should be less than 2147483648"),
        ("sft.epochs", "inf", "sft.epochs = 'inf': input should be a finite number"),
        ("sft.epochs", ".inf", "sft.epochs = '.inf': input should be a valid number"),
        ("sft.epochs", "1e400", "sft.epochs = inf: input should be a finite number"),
        ("sft.learning_rate", "nan", "sft.learning_rate = 'nan': input should be a finite number"),
        ("base.model", "''", "base.model = '': string should have at least 1 character"),
        ("contamination.tasks", "[]", "contamination.tasks = []: list should have at least 1 item"),
        ("evaluate.subjects", "[]", "evaluate.subjects"),
        ("seed.x", "1", "override seed.x=1: 'seed' is a setting, not a section"),
    ],
)
def test_bad_settings_are_one_line_that_names_them(override, value, line):
    with pytest.raises(UserError) as error:
        load_scale("check", {override: value})
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_scale_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'check'"):
        load_scale("chekc")


def test_a_file_that_is_no_scale(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("just text")
    with pytest.raises(UserError, match=r"mine\.yaml: expected sections"):
        load_scale(str(file))
    file.write_text("a: [")
    with pytest.raises(UserError, match=r"mine\.yaml: not YAML"):
        load_scale(str(file))
    file.write_text("seed: 1")
    with pytest.raises(UserError, match=r"mine\.yaml: description: is missing"):
        load_scale(str(file))


def test_scientific_notation_of_the_command_line():
    assert load_scale("check", {"sft.learning_rate": "1e-5"}).sft.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("override", "value", "number"),
    [
        ("seed", "042", 42),
        ("seed", "+7", 7),
        ("continue_pretrain.tokens", "010000", 10_000),
        ("continue_pretrain.tokens", "1e6", 1_000_000),
        ("continue_pretrain.tokens", "1_000", 1_000),
        ("dpo.beta", ".5", 0.5),
        ("sft.max_steps", "null", None),
    ],
)
def test_numbers_are_decimal(override, value, number, tmp_path):
    """On the command line and in a file alike."""
    section, _, key = override.rpartition(".")

    def setting(scale):
        return getattr(getattr(scale, section) if section else scale, key)

    assert setting(load_scale("check", {override: value})) == number
    content = (FOLDER / "check.yaml").read_text(encoding="utf-8")
    line = re.compile(rf"^({'  ' if section else ''}{key}): .*$", re.MULTILINE)
    start = content.index(f"\n{section}:") if section else 0
    if not (found := line.search(content, start)):
        return
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"{content[: found.start()]}{found[1]}: {value}{content[found.end() :]}")
    assert setting(load_scale(str(mine))) == number


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "{a: 1, a: 2}", "1" * 5000])
def test_what_yaml_would_drop_or_choke_on_is_an_error(text):
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)


def test_yaml_as_people_mean_it():
    assert read_yaml("[042, 2:00, no, ~, 2020-01-01, true, null, 1e-5]") == [
        *(42, "2:00", "no", "~", "2020-01-01", True, None, 1e-5)
    ]
    assert read_yaml("a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}")["b"] == {"x": 2, "y": 1}


def test_the_environment_names_the_mirror_and_an_override_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("SOLAR_MIRROR", str(tmp_path))
    assert load_scale("laptop").data.mirror == str(tmp_path)
    assert load_scale("laptop", {"data.mirror": "/other"}).data.mirror == "/other"


def test_accumulation():
    settings = load_scale("check", {"sft.global_batch_size": "32", "sft.per_device_batch_size": "4"}).sft
    assert settings.accumulation() == 8
    assert settings.accumulation(processes=4) == 2
    with pytest.raises(ValueError, match="32 is not a multiple of per_device_batch_size 4 × 3"):
        settings.accumulation(processes=3)


def test_candidates_change_only_what_their_section_says():
    scale = load_scale("check", {"cand_1.beta": "0.3"})
    changed = scale.alignment("cand_1").model_dump()
    plain = scale.dpo.model_dump()
    assert {name for name in plain if plain[name] != changed[name]} == {"beta", "learning_rate"}
