from solar_repro.stages.base import as_llama


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
