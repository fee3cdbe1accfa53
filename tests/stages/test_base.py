import hashlib
import json

import pytest

from solar_repro.errors import UserError
from solar_repro.stages.base import as_llama, run
from solar_repro.stages.checkpoints import load_tokenizer
from tests.checkpoint.conftest import random_model


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
    digests = run(tmp_path, lambda metrics, step=0: logged.update(metrics), model=str(given))
    weights = (given / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert digests == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    assert logged == {"parameters": 260_032, "layers": 5}
    assert not list(tmp_path.glob("*.bin"))


@pytest.fixture
def mistral(tmp_path):
    folder = tmp_path / "mistral"
    random_model("mistral", sliding_window=8).save_pretrained(folder)
    return folder


def test_that_the_sliding_window_goes_is_said(mistral, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    run(tmp_path / "out", quiet, model=str(mistral))
    assert "without their sliding window of 8 tokens" in capsys.readouterr().err


def test_a_base_without_tokenizer_is_taken_and_training_says_what_it_misses(mistral, tmp_path):
    (tmp_path / "out").mkdir()
    run(tmp_path / "out", quiet, model=str(mistral))
    with pytest.raises(
        UserError, match=r"^out: has no tokenizer that can be loaded .*tokenizer\.json"
    ) as told:
        load_tokenizer(tmp_path / "out")
    assert "\n" not in str(told.value)


def test_what_is_no_decoder_is_refused_by_its_own_name_before_it_is_copied(mistral, tmp_path):
    config = json.loads((mistral / "config.json").read_text())
    (mistral / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=f"^{mistral}"):
        run(tmp_path / "out", quiet, model=str(mistral))
    assert not list((tmp_path / "out").iterdir())


def test_auto_map_goes_where_its_code_is_not_carried(mistral, tmp_path):
    config = json.loads((mistral / "config.json").read_text())
    (mistral / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "x.X"}}))
    out = tmp_path / "out"
    out.mkdir()
    run(out, quiet, model=str(mistral))
    assert "auto_map" not in json.loads((out / "config.json").read_text())
