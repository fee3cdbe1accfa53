"""Tuning by low-rank adapters ends in a whole checkpoint."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from solar_repro.errors import Stopped
from solar_repro.plan.costs import adapter_parameters, training_memory
from solar_repro.plan.plan import Plan
from solar_repro.scales.load import load_scale
from solar_repro.scales.training import AlignmentTuning, Lora
from solar_repro.stages import sft
from tests.steps import run_step

SHORT = {"sft.max_steps": "3", "dpo.max_steps": "3"}


# bitsandbytes' kernel for scoring on a CPU, which DPO's reference needs, takes no model this narrow.
@pytest.mark.parametrize(("variant", "quantised"), [("sft_v1", False), ("dpo_v1", False), ("sft_v1", True)])
def test_adapters_are_trained_and_merged(finished, tmp_path, variant, quantised):
    pytest.importorskip("peft")
    if quantised:
        pytest.importorskip("bitsandbytes")
    stage = variant.partition("_")[0]
    lora = {f"{stage}.lora.rank": "4", f"{stage}.lora.quantised": str(quantised).lower()}
    step = Plan(load_scale("check", {**SHORT, **lora, f"{stage}.learning_rate": "1e-2"})).model(variant)
    inputs = {role: finished.folder(parent.label) for role, parent in step.inputs.items()}
    losses = []

    def log(metrics, step=0):
        losses.extend(value for name, value in metrics.items() if name == "loss")

    run_step(step, tmp_path, log, inputs)
    assert losses[-1] < losses[0]
    before, after = (load_file(folder / "model.safetensors") for folder in (inputs["model"], tmp_path))
    assert {name: (w.shape, w.dtype) for name, w in after.items()} == {
        name: (w.shape, w.dtype) for name, w in before.items()
    }
    moved = {name for name in before if not before[name].equal(after[name])}
    # Every linear layer but the head, and nothing else; a difference of the adapters' rank.
    assert moved == {name for name in before if "_proj" in name}
    name = sorted(moved)[0]
    assert (after[name] - before[name]).double().svd().S[4:].max() < 1e-4


def test_adapters_over_quantised_weights_are_trained_in_float32(finished, tmp_path, monkeypatch):
    """TRL rounds them to bfloat16 where a model says that it is quantised."""
    pytest.importorskip("peft")
    step = Plan(load_scale("check", {"sft.lora.rank": "4", "sft.max_steps": "2"})).model("sft_v1")
    inputs = {role: finished.folder(parent.label) for role, parent in step.inputs.items()}
    load, dtypes = sft.load_for_tuning, []

    def quantised(*arguments):
        model, tokenizer = load(*arguments)
        model.is_loaded_in_4bit = True
        return model, tokenizer

    def begun(trainer, **_):
        dtypes.extend(weight.dtype for weight in trainer.model.parameters() if weight.requires_grad)
        raise Stopped("far enough")

    monkeypatch.setattr(sft, "load_for_tuning", quantised)
    monkeypatch.setattr(Trainer, "train", begun)
    with pytest.raises(Stopped):
        run_step(step, tmp_path, lambda metrics, step=0: None, inputs)
    assert len(dtypes) > 10
    assert set(dtypes) == {torch.float32}


def test_adapters_take_less_memory_and_are_counted_as_peft_counts_them():
    peft = pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 80, "vocab_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    adapters = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4)
    trained, _ = peft.get_peft_model(LlamaForCausalLM(config), adapters).get_nb_trainable_parameters()
    assert adapter_parameters(config.to_dict(), 4) == trained
    sizes = {"learning_rate": 1e-4, "global_batch_size": 1, "per_device_batch_size": 1, "max_length": 8}
    whole = AlignmentTuning(**sizes, precision="bfloat16")
    memory = [
        training_memory(config.to_dict(), whole.model_copy(update={"lora": lora}), "ddp", 1, True)
        for lora in (None, Lora(rank=2), Lora(rank=2, quantised=True))
    ]
    assert memory == sorted(memory, reverse=True)
