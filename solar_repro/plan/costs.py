"""Estimates of what a step costs: FLOPs, GPU memory and bytes on disk.

All formulas use the config of the model (names as in `config.json`). Nothing is measured here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import parameters_of, variant_map
from solar_repro.contract import (
    BaseModelSettings,
    ContaminationSettings,
    ContinuePretrainSettings,
    DpoSettings,
    EvaluateSettings,
    FrozenModel,
    PackedSettings,
    ReferenceSettings,
    SftSettings,
    TrainingSettings,
    UntrainedSettings,
    UpscaleSettings,
)
from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import H6_BENCHMARKS
from solar_repro.plan.step import Step
from solar_repro.scales.hardware import Hardware, Shape
from solar_repro.scales.microworld import BaseTraining
from solar_repro.scales.settings import Evaluate
from solar_repro.scales.training import Training, Tuning
from solar_repro.training.flops import attention_width, forward_flops, training_flops

GIB = 1 << 30
MASTER_BYTES = 4
"""Bytes per parameter of the float32 master weights that are trained, in a state to resume from."""
EMBEDDED_BYTES = 2
"""Bytes per parameter of the embedded base, which is stored in bfloat16."""
_OPTIMIZER_BYTES = {"adamw_torch_fused": 8, "rmsprop": 4}
"""Bytes per parameter of the optimizer's state: two float32 moments, or one."""

LOGITS_TILE = (4096, 32_768)
"""Tokens and words of the tile in which TRL computes logits on a GPU, whatever the vocabulary's size."""

QUANTISED_BYTES = 0.52
"""Bytes per parameter in NF4: 4 bits, and 0.127 bits of constants (QLoRA, Dettmers et al. 2023, Sec. 3)."""

_WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "nf4": QUANTISED_BYTES}

STRATEGIES = ("ddp", "fsdp2")
"""With `ddp` every GPU holds everything; `fsdp2` shards parameters, gradients and optimizer state."""

MMLU_SUBJECTS = 57
CHARACTERS_PER_TOKEN = 3.6
"""Our estimate for English text and a vocabulary of about 32,000."""
ANSWER_TOKENS = 150
"""Our estimate of the tokens that are generated per item. Each counts as a forward pass."""


LIGHT_STAGES = ("microworld", "data", "synth_math", "packed", "upscale", "merge")
"""Stages that neither train nor score a model."""


def gpu_hours(flops: float, hardware: Hardware) -> float:
    """Hours that one GPU needs at the given MFU."""
    return flops / (hardware.gpu_tflops * 1e12 * hardware.mfu) / 3600


def step_flops(step: Step, config: Mapping[str, Any]) -> float:
    """FLOPs of a whole training or scoring step; 0 for other steps."""
    settings = step.settings
    if (training := training_of(step)) is not None:
        return training_flops(config, training.max_length) * training_tokens(step)
    if isinstance(settings, ReferenceSettings):
        tokens = 2 * settings.max_length * sum(chosen.maximum_samples for chosen in settings.datasets)
        return forward_flops(config, settings.max_length) * tokens
    if isinstance(settings, EvaluateSettings):
        per_column = h6_tokens(settings.evaluate).values()
        return sum(items * tokens * forward_flops(config, tokens) for items, tokens in per_column)
    return 0.0


def estimated_flops(step: Step, shape: Shape | None) -> float | None:
    """`step_flops` of a step; 0 if it only moves bytes or writes texts, None if no formula covers it."""
    if step.is_copy or step.stage in LIGHT_STAGES:
        return 0.0
    try:
        config = step_config(shape, step)
        return (step_flops(step, config) if config else 0.0) or None
    except (KeyError, TypeError, ValueError, UserError):  # the step itself says what is wrong with it
        return None


def h6_tokens(settings: Evaluate) -> dict[str, tuple[int, int]]:
    """Benchmark → items that are scored, tokens per item. What choices share is read once."""
    found = {}
    for benchmark in H6_BENCHMARKS:
        items, most = benchmark.items, settings.limits.get(benchmark.name, benchmark.items)
        if benchmark.name == "MMLU":
            subjects = len(settings.subjects) if settings.subjects is not None else MMLU_SUBJECTS
            items = round(items * subjects / MMLU_SUBJECTS)
            most *= subjects
        tokens = benchmark.prompt_characters / CHARACTERS_PER_TOKEN
        tokens += ANSWER_TOKENS if benchmark.generates else 0
        found[benchmark.name] = min(items, most), round(tokens)
    return found


def training_tokens(step: Step) -> int:
    """Tokens that a training step sees. For tuning it is an upper bound: every row has its full length."""
    match step.settings:
        case ContinuePretrainSettings() as settings:
            return settings.training.tokens
        case SftSettings() | DpoSettings() as settings:
            rows = sum(chosen.maximum_samples for chosen in settings.datasets)
            answers = 2 if isinstance(settings, DpoSettings) else 1
            return int(rows * answers * settings.training.max_length * settings.training.epochs)
    return 0


def training_of(step: Step) -> Training | None:
    """The training section of a step that makes a variant by training; None of any other step."""
    if isinstance(step.settings, ContinuePretrainSettings | SftSettings | DpoSettings):
        return step.settings.training
    return None


def training_memory(
    config: Mapping[str, Any], settings: Training, strategy: str, gpus: int, pairs: bool, replicas: int = 1
) -> float:
    """Peak bytes of one GPU in a training step. With `pairs` (DPO) a row has two sequences.

    A parameter: 4 of weight, 4 of gradient, the optimizer's state (AdamW 8), and under bfloat16 autocast 2 of
    the cast weight. `ddp` on several GPUs keeps 4 more in buckets of gradients. `fsdp2` divides the first
    three by the GPUs of one copy (of `replicas`) and gathers two units at a time, a layer or what lies
    outside the layers. Activations: `layer_bytes` and `head_bytes`. With adapters (LoRA) that is so for them
    alone, beside the frozen weights, in half precision or quantised; what lies outside the layers is then in
    float32, and so are the states that pass from layer to layer. Gradients count beside all activations, as
    from the second micro-batch of an optimiser's step on. `deepspeed` shards as `fsdp2` does, but each GPU
    takes the whole model in float32 before it is sharded.
    """
    parameters = parameters_of(config)
    half = settings.precision == "bfloat16"
    frozen = 0.0
    lora = settings.lora if isinstance(settings, Tuning) else None
    if lora is not None:
        frozen = parameters * (2 if half else 4)
        if lora.quantised:
            outside = parameters_of({**config, "num_hidden_layers": 0})
            frozen = (parameters - outside) * QUANTISED_BYTES + outside * 4
        parameters = adapter_parameters(config, lora.rank)
    state = frozen + parameters * (8 + _OPTIMIZER_BYTES[settings.optimizer])
    if strategy in ("fsdp2", "deepspeed"):
        outside = parameters_of({**config, "num_hidden_layers": 0})
        unit = max(outside, parameters_of({**config, "num_hidden_layers": 1}) - outside)
        weights = state / (gpus / replicas) + unit * (2 * (2 if half else 4) + 4)
    else:
        weights = state + parameters * ((2 if half else 0) + (4 if gpus > 1 else 0))
    tokens = settings.per_device_batch_size * settings.max_length * (2 if pairs else 1)
    rank = None if lora is None else lora.rank
    layers = tokens * layer_bytes(config, half, settings.activation_checkpointing, rank)
    if lora is not None and lora.quantised and half:
        layers += tokens * 2 * config["hidden_size"] * config["num_hidden_layers"]
    training = weights + layers + head_bytes(config, settings, tokens)
    return max(training, MASTER_BYTES * parameters_of(config)) if strategy == "deepspeed" else training


def adapter_parameters(config: Mapping[str, Any], rank: int) -> int:
    """Parameters of the low-rank adapters of all linear layers; each has rank × (inputs + outputs)."""
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], attention_width(config)
    heads = config["num_attention_heads"]
    keys = (config.get("num_key_value_heads") or heads) * width // heads
    ends = 2 * (hidden + width) + 2 * (hidden + keys) + 3 * (hidden + inner)
    return config["num_hidden_layers"] * rank * ends


def layer_bytes(config: Mapping[str, Any], half: bool, checkpointing: bool, rank: int | None = None) -> float:
    """Bytes of activations per token: what Llama layers keep for the backward pass.

    A layer keeps 30·hidden + 4·keys + 8·inner under bfloat16 autocast, 32·hidden + 8·keys + 16·inner in
    float32 (keys: key-value heads × their size), and 4·heads + 8 either way; with checkpointing its input
    alone, and one layer is whole at a time. With adapters of a `rank` it keeps 24·hidden instead, and what
    each of the seven makes; their frozen weights, and so a layer's input, have the precision's own format.
    """
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    keys = (config.get("num_key_value_heads") or heads) * attention_width(config) // heads
    inner, size = config["intermediate_size"], 2 if half else 4
    wide, given = (30 if half else 32, 4) if rank is None else (24, size)
    layer = wide * hidden + 2 * size * keys + (8 if half else 16) * inner + 4 * heads + 8
    layer += 7 * size * (rank or 0)
    return given * hidden * layers + layer if checkpointing else layer * layers


def head_bytes(config: Mapping[str, Any], settings: Training, tokens: int) -> float:
    """Bytes that the head takes for a micro-batch of so many tokens.

    In continued pretraining a logit takes 12 (itself, its log-probability and its gradient in float32), and 2
    more in bfloat16. In tuning TRL computes logits in one tile, and keeps 4·hidden of gradient per token; the
    gradient of the head's weights, if they are trained, is summed up beside that of earlier micro-batches.
    """
    half, hidden, vocabulary = settings.precision == "bfloat16", config["hidden_size"], config["vocab_size"]
    if not isinstance(settings, Tuning):
        return tokens * vocabulary * (14 if half else 12)
    rows, words = LOGITS_TILE
    gradient = 4 * vocabulary * hidden if settings.lora is None else 0
    return min(tokens, rows) * words * (2 if half else 4) + tokens * 4 * hidden + gradient


def step_config(shape: Shape | None, step: Step) -> dict[str, Any] | None:
    """Config of the model that a step makes or reads; None where it is not known on this machine.

    `shape` gives the dimensions of a base that only the hub has.
    """
    if step.stage == "base":
        return _base_config(shape, step)
    inputs = [parent for parent in step.inputs.values() if parent.makes_model]
    config = step_config(shape, inputs[0]) if inputs else None
    if config is None or not isinstance(step.settings, UpscaleSettings):
        return config
    chosen = variant_map(step.settings.layer_map, config["num_hidden_layers"], step.settings.m)
    return {**config, "num_hidden_layers": len(chosen.layers)}


def _base_config(shape: Shape | None, step: Step) -> dict[str, Any] | None:
    if (training := _embedded(step)) is not None:
        return {
            "model_type": "llama",
            "hidden_size": training.hidden_size,
            "intermediate_size": training.intermediate_size,
            "vocab_size": training.vocab_size,
            "num_hidden_layers": training.layers,
            "num_attention_heads": training.heads,
            "num_key_value_heads": training.key_value_heads,
            "tie_word_embeddings": True,
        }
    folder = Path(step.places["model"])
    if folder.is_dir():
        return open_checkpoint(folder).config
    return shape.model_dump() if shape is not None else None


def checkpoint_bytes(shape: Shape | None, step: Step) -> int | None:
    """Bytes of the checkpoint that a model step makes; None where its config is not known on this machine."""
    config = step_config(shape, step)
    return None if config is None else parameters_of(config) * _stored_bytes(shape, step)


def _stored_bytes(shape: Shape | None, step: Step) -> int:
    """Bytes per stored parameter: up-scaling and merging keep their inputs' dtype, a training has its own."""
    if training_of(step) is not None:
        return _trained_bytes(step)
    if _embedded(step) is not None:
        return EMBEDDED_BYTES
    if step.stage == "base":
        folder = Path(step.places["model"])
        if folder.is_dir():
            checkpoint = open_checkpoint(folder)
            return round(checkpoint.bytes / checkpoint.parameters)
        return shape.stored_bytes if shape is not None else MASTER_BYTES
    return _stored_bytes(shape, next(parent for parent in step.inputs.values() if parent.makes_model))


def result_bytes(shape: Shape | None, step: Step) -> int | None:
    """Bytes of a checkpoint or of packed text, 0 for other results; None where the config is not known."""
    if step.makes_model:
        return checkpoint_bytes(shape, step)
    if not isinstance(step.settings, PackedSettings):
        return 0
    config = step_config(shape, step)
    return None if config is None else packed_bytes(step.settings, config["vocab_size"])


def packed_bytes(settings: PackedSettings, vocabulary: int) -> int:
    """Bytes of the token ids of packed text: two each up to a vocabulary of 65,536, else four."""
    blocks = -(-settings.tokens // settings.max_length)
    return blocks * settings.max_length * (2 if vocabulary <= 1 << 16 else 4)


def bytes_to_write(step: Step, inputs: Mapping[str, Path]) -> int:
    """The most bytes that a training step, or the packing of its text, writes; 0 for stages that check the
    free space themselves.

    Of a training these are the checkpoint and two states to resume from: a new one is written before the old
    one goes. `inputs` are the folders that the step gets.
    """
    if isinstance(step.settings, PackedSettings):
        return packed_bytes(step.settings, open_checkpoint(inputs["model"]).config["vocab_size"])
    if (training := training_of(step)) is None:
        return 0
    checkpoint = open_checkpoint(inputs["model"])
    saved = checkpoint.parameters
    if isinstance(training, Tuning) and training.lora is not None:
        saved = adapter_parameters(checkpoint.config, training.lora.rank)
    state = MASTER_BYTES + _OPTIMIZER_BYTES[training.optimizer]
    return checkpoint.parameters * _trained_bytes(step) + 2 * saved * state


def bytes_to_hold(step: Step, models: Mapping[str, Path]) -> int:
    """The least bytes of memory that a step's models take in one process; 0 where none is loaded.

    A training holds weights, gradients and the optimizer's state; activations come on top of it. `models`
    are the folders of checkpoints by role.
    """
    match step.settings:
        case TrainingSettings(training=Tuning() as tuning) if tuning.lora is not None:
            each = _WEIGHT_BYTES[FrozenModel.before(tuning).weights]
        case TrainingSettings() as settings:
            each = 2 * MASTER_BYTES + _OPTIMIZER_BYTES[settings.training.optimizer]
        case UntrainedSettings() | ContaminationSettings() as settings:
            each = _WEIGHT_BYTES[settings.precision]
        case EvaluateSettings() as settings:
            each = _WEIGHT_BYTES[settings.evaluate.precision]
        case ReferenceSettings() as settings:
            each = _WEIGHT_BYTES[settings.reference.weights]
        case _:
            return 0
    return round(each * sum(open_checkpoint(folder).parameters for folder in set(models.values())))


def _trained_bytes(step: Step) -> int:
    """Bytes per parameter of the checkpoint that a training writes."""
    half = isinstance(step.settings, TrainingSettings) and step.settings.checkpoint.dtype == "bfloat16"
    return 2 if half else 4


def _embedded(step: Step) -> BaseTraining | None:
    """How the embedded base is, or was, trained; None of any other step."""
    return step.settings.base if isinstance(step.settings, BaseModelSettings) else None
