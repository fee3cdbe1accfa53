import hashlib
import json
import shutil

import pytest

from solar_repro.checkpoint.load import load_training_tokenizer
from solar_repro.checkpoint.model_source import fingerprint_model
from solar_repro.contract import BaseModelInputs, BaseModelSettings
from solar_repro.errors import UserError
from solar_repro.stages import base
from solar_repro.stages.base import as_llama, run
from tests.tiny_benchmarks import make_model
from tests.tiny_decoders import random_model


def quiet(metrics, step=0):
    pass


def test_mistral_becomes_the_llama_architecture_without_its_sliding_window():
    mistral = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096}
    assert as_llama({**mistral, "hidden_size": 4096}) == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
    }


def test_other_configs_are_left_as_they_are():
    config = {"model_type": "qwen2", "sliding_window": 4096}
    assert as_llama(config) == config


def test_a_given_base_is_copied_byte_for_byte(shared, tmp_path):
    given = shared / "models" / "stories260K"
    logged: dict = {}
    digests = run(
        tmp_path,
        lambda metrics, step=0: logged.update(metrics),
        BaseModelSettings(),
        BaseModelInputs(model=given),
    )
    weights = (given / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert digests["model.safetensors"] == hashlib.sha256(weights).hexdigest()
    for name, digest in digests.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert logged == {"parameters": 260_032, "layers": 5}
    assert not list(tmp_path.glob("*.bin"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of the same size, and a copy of the first to be tampered with."""
    made = tmp_path_factory.mktemp("models")
    return make_model(made / "honest", seed=0), make_model(made / "other", seed=1)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_what_was_swapped_in_for_the_copy_alone_is_not_published(models, tmp_path, monkeypatch, name):
    honest, other = models
    given = shutil.copytree(honest, tmp_path / "given")
    digest = fingerprint_model(given, "base.model")
    (tmp_path / "out").mkdir()
    copy_whole = base._copy

    def swapped(source, out):
        (source / name).write_bytes((other / name).read_bytes() + (b"" if name[0] == "m" else b" "))
        copied = copy_whole(source, out)
        shutil.copy2(honest / name, source / name)
        return copied

    monkeypatch.setattr(base, "_copy", swapped)
    with pytest.raises(UserError, match=r"base\.model: .*given was changed while it was used"):
        run(
            tmp_path / "out",
            lambda *_: None,
            BaseModelSettings(),
            BaseModelInputs(model=given, digest=digest),
        )


def test_a_base_that_nobody_touched_is_what_its_key_was_made_of(models, tmp_path):
    digest = fingerprint_model(models[0], "base.model")
    run(tmp_path, lambda *_: None, BaseModelSettings(), BaseModelInputs(model=models[0], digest=digest))


@pytest.fixture
def mistral(tmp_path):
    folder = tmp_path / "mistral"
    random_model("mistral", sliding_window=8).save_pretrained(folder)
    return folder


def test_that_the_sliding_window_goes_is_said(mistral, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    run(tmp_path / "out", quiet, BaseModelSettings(), BaseModelInputs(model=str(mistral)))
    assert "without their sliding window of 8 tokens" in capsys.readouterr().err


def test_a_base_without_tokenizer_is_taken_and_training_says_what_it_misses(mistral, tmp_path):
    (tmp_path / "out").mkdir()
    run(tmp_path / "out", quiet, BaseModelSettings(), BaseModelInputs(model=str(mistral)))
    with pytest.raises(UserError, match=r"out: cannot be loaded as a tokenizer .*tokenizer\.json") as told:
        load_training_tokenizer(tmp_path / "out")
    assert "\n" not in str(told.value)


def test_what_is_no_decoder_is_refused_by_its_own_name_before_it_is_copied(mistral, tmp_path):
    config = json.loads((mistral / "config.json").read_text())
    (mistral / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=f"^{mistral}"):
        run(tmp_path / "out", quiet, BaseModelSettings(), BaseModelInputs(model=str(mistral)))
    assert not list((tmp_path / "out").iterdir())


def test_auto_map_goes_where_its_code_is_not_carried(mistral, tmp_path):
    config = json.loads((mistral / "config.json").read_text())
    (mistral / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "x.X"}}))
    out = tmp_path / "out"
    out.mkdir()
    run(out, quiet, BaseModelSettings(), BaseModelInputs(model=str(mistral)))
    assert "auto_map" not in json.loads((out / "config.json").read_text())
