import hashlib

from solar_repro.stages.base import as_llama, run


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
