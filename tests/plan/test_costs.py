"""The formulas against published measurements, torch's own counters, and real checkpoints."""

import json
from itertools import pairwise

import pytest

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import parameters_of
from solar_repro.microworld.trained_base import FOLDER
from solar_repro.plan import costs
from solar_repro.plan.plan import Plan
from solar_repro.scales.hardware import Hardware
from solar_repro.scales.load import load_scale
from solar_repro.scales.training import InstructionTuning, Pretraining
from solar_repro.training import flops
from solar_repro.training.flops import forward_flops, training_flops

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "tie_word_embeddings": False,
}
LENGTH = 128


def settings(**changes):
    given = {"learning_rate": 1, "global_batch_size": 64, "per_device_batch_size": 1, "max_length": LENGTH}
    return InstructionTuning.model_validate(given | changes)


@pytest.fixture(scope="module")
def model():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**TINY, attn_implementation="eager", use_cache=False)
    return transformers.LlamaForCausalLM(config).train()


@pytest.mark.parametrize(
    ("parameters", "layers", "width", "length", "mfu", "tokens_per_second"),
    [  # one H100 of 8, bfloat16: llm-foundry, scripts/train/benchmarking/README.md
        (1315950592, 24, 2048, 2048, 0.4182, 45455),
        (6658859008, 32, 4096, 2048, 0.4644, 10643),
        (6667247616, 32, 4096, 4096, 0.4042, 8611),
        (12853954560, 40, 5120, 2048, 0.3979, 4792),
        (29975214080, 48, 7168, 2048, 0.3811, 2002),
    ],
)
def test_published_speed_follows_from_published_utilisation(
    monkeypatch, parameters, layers, width, length, mfu, tokens_per_second
):
    monkeypatch.setattr(flops, "parameters_of", lambda config: parameters)
    config = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": 32}
    hours = costs.gpu_hours(1e9 * training_flops(config, length), Hardware(mfu=mfu))
    assert 1e9 / hours / 3600 == pytest.approx(tokens_per_second, rel=0.002)


def test_operations_are_those_that_torch_counts(model):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.zeros(1, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=ids, labels=ids).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    # The formula counts the look-up of an embedding as a product, and norms.
    outside = (
        TINY["vocab_size"] * TINY["hidden_size"] + (2 * TINY["num_hidden_layers"] + 1) * TINY["hidden_size"]
    )
    expected = forward_flops(TINY, LENGTH) - 2 * outside
    assert forward.get_total_flops() / LENGTH == pytest.approx(expected, rel=0.002)
    together = forward.get_total_flops() + backward.get_total_flops()
    assert together / LENGTH == pytest.approx(training_flops(TINY, LENGTH) - 6 * outside, rel=0.01)


@pytest.mark.parametrize(("optimizer", "of_torch"), [("adamw_torch_fused", "AdamW"), ("rmsprop", "RMSprop")])
def test_memory_of_weights_gradients_and_optimizer_is_what_torch_holds(model, optimizer, of_torch):
    import torch

    made = getattr(torch.optim, of_torch)(model.parameters(), lr=0)
    ids = torch.zeros(1, 8, dtype=torch.long)
    model(input_ids=ids, labels=ids).loss.backward()
    made.step()
    held = list(model.parameters()) + [p.grad for p in model.parameters()]
    held += [value for state in made.state.values() for value in state.values() if value.dim()]
    measured = sum(tensor.nbytes for tensor in held)
    empty = settings(optimizer=optimizer, max_length=1)
    activations = costs.layer_bytes(TINY, False, False) + costs.head_bytes(TINY, empty, 1)
    assert costs.training_memory(TINY, empty, "ddp", 1, False) - activations == measured


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("rank", [None, 4])
def test_activations_are_those_that_autograd_keeps(half, checkpointing, rank):
    """What a longer text adds, so that weights and their casts do not count."""
    if rank:
        pytest.importorskip("peft")
    expected = _formula(half, checkpointing, rank)
    assert _kept(half, checkpointing, rank) == pytest.approx(expected, rel=0.02)


def _formula(half, checkpointing, rank):
    """Kept through the forward pass: of a checkpointed layer its input alone, of a logit 4 bytes."""
    layer = costs.layer_bytes({**TINY, "num_hidden_layers": 1}, half, False, rank)
    kept = costs.layer_bytes(TINY, half, checkpointing, rank) + 4 * TINY["vocab_size"]
    return kept - layer * checkpointing + _outside_the_layers(half, rank)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("tokens", [512, 8192])
def test_a_tuning_computes_logits_in_the_tile_of_trl(precision, tokens):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as WORDS

    largest = []

    class Allocations(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.empty.memory_format:
                largest.append(found.nbytes)
            return found

    dtype = getattr(torch, precision)
    hidden, weight = (torch.zeros(rows, 2, dtype=dtype) for rows in (tokens, 3))
    targets = torch.zeros(tokens, dtype=torch.long)
    with Allocations():
        ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, WORDS, None, 1.0, ("entropy",))
    tuned = settings(precision=precision)
    beside = 4 * TINY["hidden_size"] * (tokens + TINY["vocab_size"])
    assert costs.head_bytes(TINY, tuned, tokens) - beside == max(largest)
    pretrained = Pretraining.model_validate(tuned.model_dump(exclude={"lora"}) | {"tokens": LENGTH})
    logits = (14 if precision == "bfloat16" else 12) * TINY["vocab_size"]
    assert costs.head_bytes(TINY, pretrained, tokens) == tokens * logits


def _outside_the_layers(half, rank):
    """The final norm and the head's input: a few numbers a token, which the formula leaves out."""
    hidden = TINY["hidden_size"]
    return hidden * (4 + 4 + (2 if half else 4) if rank is None else 4)


def _kept(half, checkpointing, rank):
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**TINY, use_cache=False)
    network = transformers.LlamaForCausalLM(config).train()
    if rank:
        import peft

        adapters = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=rank)
        network = peft.get_peft_model(network.to(torch.bfloat16 if half else torch.float32), adapters)
    if checkpointing:
        network.activation_checkpointing_enable()

    def kept(length):
        storages = {}

        def note(tensor):
            storages[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
            return tensor

        ids = torch.zeros(1, length, dtype=torch.long)
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            network(input_ids=ids, labels=ids)
        return sum(size for size, _ in storages.values())

    return (kept(3 * LENGTH) - kept(2 * LENGTH)) / LENGTH


def test_the_shapes_of_the_scales_are_the_published_sizes():
    shape = load_scale("paper").base.shape.model_dump()
    assert parameters_of(shape) == 7_241_732_096
    assert parameters_of({**shape, "num_hidden_layers": 48}) == 10_731_524_096
    assert parameters_of(load_scale("one_gpu").base.shape.model_dump()) == 361_821_120


def test_sharding_divides_what_every_gpu_would_hold():
    config = load_scale("paper").base.shape.model_dump()
    section = load_scale("paper").in_precision("bfloat16").sft
    sizes = [costs.training_memory(config, section, "fsdp2", gpus, False) for gpus in (1, 2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True)
    shares = [large - small for large, small in pairwise(sizes)]
    assert shares == pytest.approx([parameters_of(config) * 16 / gpus for gpus in (2, 4, 8)])
    # Of two copies on 16 GPUs each GPU holds as much as of one on 8.
    assert costs.training_memory(config, section, "fsdp2", 16, False, 2) == sizes[-1]


def test_sizes_on_disk_are_those_of_the_checkpoints(finished):
    plan = Plan(load_scale("check"))
    for name in ("base", "upscaled", "solar", "sft_v1", "merge_v1", "upscaled_repeat"):
        content = (finished.folder(name) / "model.safetensors").read_bytes()
        tensors = len(content) - 8 - int.from_bytes(content[:8], "little")  # without the header
        assert costs.checkpoint_bytes(plan.scale.base.shape, plan.model(name)) == pytest.approx(
            tensors, rel=0.01
        )
    inputs = {"model": finished.folder("solar")}
    result = costs.checkpoint_bytes(plan.scale.base.shape, plan.model("sft_v1"))
    state = 3 * result  # the weights and AdamW's two moments
    assert costs.bytes_to_write(plan.model("sft_v1"), inputs) == result + 2 * state
    adapted = Plan(load_scale("check", {"sft.lora.rank": "4"})).model("sft_v1")
    config = json.loads((inputs["model"] / "config.json").read_text())
    state = 12 * costs.adapter_parameters(config, 4)  # of the adapters alone
    assert costs.bytes_to_write(adapted, inputs) == result + 2 * state


def test_deepspeed_shards_the_model_after_each_gpu_has_had_it_whole():
    config = {**load_scale("paper").base.shape.model_dump(), "num_hidden_layers": 48}
    section = load_scale("paper").in_precision("bfloat16").continue_pretrain
    sharded, whole_first = (
        costs.training_memory(config, section, strategy, 64, False) for strategy in ("fsdp2", "deepspeed")
    )
    assert sharded < whole_first == 4 * parameters_of(config)


def test_at_the_papers_size_saving_takes_little_of_the_time():
    scale = load_scale("paper")
    parameters = parameters_of({**scale.base.shape.model_dump(), "num_hidden_layers": 48})
    seconds = 12 * parameters / 2e9  # the weights and AdamW's moments, on a disk that takes 2 GB a second
    assert seconds < 0.02 * 60 * scale.execution.save.minutes


def test_tokens_are_at_least_those_that_a_run_used(finished):
    plan = Plan(load_scale("check"))
    for name in ("sft_v3", "dpo_v1"):
        (run,) = finished.runs(f"tags.`solar.key` = '{plan.model(name).key}'")
        used = [value for key, value in run.data.metrics.items() if key.endswith("/tokens")]
        assert 0 < sum(used) <= costs.training_tokens(plan.model(name))
    assert costs.training_tokens(plan.model("solar")) == plan.scale.continue_pretrain.tokens


def test_what_trains_or_scores_costs_operations_and_what_moves_bytes_does_not():
    plan = Plan(load_scale("check"))
    told = {}
    for step in plan.main():
        told.setdefault(step.stage, set()).add(costs.estimated_flops(step, None))
    for stage in ("continue_pretrain", "sft", "dpo", "evaluate"):
        assert all(told[stage]), stage
    assert all(told[stage] == {0.0} for stage in costs.LIGHT_STAGES if stage in told)
    # `check` trains its base; no formula counts that, the contamination test and its positive control.
    assert all(told[stage] == {None} for stage in ("base", "contamination", "contaminate"))
    (shipped,) = {costs.estimated_flops(Plan(load_scale("smoke")).model("base"), None)}
    assert shipped == 0.0


def test_items_of_h6_follow_the_limits():
    section = load_scale("check").evaluate
    assert costs.h6_tokens(section)["MMLU"][0] == 2 * 3
    assert costs.h6_tokens(section)["ARC"][0] == 6
    assert costs.h6_tokens(load_scale("paper").evaluate)["MMLU"][0] == 14042


def test_the_least_memory_of_a_step():
    parameters = open_checkpoint(FOLDER).parameters
    lora = {"sft.lora.rank": "4", "sft.precision": "float32"}
    plan = Plan(load_scale("check", {**lora, "evaluate.precision": "bfloat16", "dpo.optimizer": "rmsprop"}))
    for step, each in (
        (plan.model("solar"), 4 + 4 + 8),  # weight, gradient, two moments
        (plan.model("dpo_v1"), 4 + 4 + 4),
        (plan.model("sft_v1"), 4),
        (plan.evaluation("base"), 2),
        (plan.model("merge_v1"), 0),
    ):
        assert costs.bytes_to_hold(step, {"model": FOLDER}) == each * parameters
