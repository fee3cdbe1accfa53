"""Measures tokens per second and MFU of SFT and DPO on a GPU, beside a bare PyTorch loop.

    python -m benchmarks.performance.gpu_training --out gpu_training.json

Two random Llamas: `1B`, TinyLlama's shape (arXiv 2401.02385), and `10.7B`, the paper's, with as many of its
48 layers as the GPU holds in training by `costs.training_memory`; the work of a layer is the same. `ours` is
the stage itself, on rows about as long as `max_length`; `bare` is forward, backward, clipping and the
optimiser on the same rows, laid out beforehand, with fixed log-probabilities of DPO's reference. MFU is model
FLOPs (`training.flops`: 6N and attention, nothing recomputed) over the peak of `--tflops`.
"""

import argparse
import gc
import json
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.performance.training import (
    Batches,
    Rates,
    bare,
    language_modelling,
    ours,
    packed_batches,
    summary,
    tuning_set,
)
from solar_repro.checkpoint.layer_map import parameters_of
from solar_repro.checkpoint.load import load_training_tokenizer
from solar_repro.contract import (
    DpoInputs,
    DpoSettings,
    FrozenModel,
    ReferenceSettings,
    SftSettings,
    TuningInputs,
)
from solar_repro.data.packing import pack_instruction
from solar_repro.data.templates import set_chat_template
from solar_repro.data.tokens import tokenise_instruction, tokenise_preferences
from solar_repro.device import device
from solar_repro.microworld.corpus import documents
from solar_repro.microworld.hub_layout import write_dataset
from solar_repro.microworld.trained_base import FOLDER
from solar_repro.microworld.world import build_world
from solar_repro.paper.data_sets import DATASETS
from solar_repro.plan import costs
from solar_repro.scales.hardware import Hardware
from solar_repro.scales.load import load_scale
from solar_repro.scales.training import Training
from solar_repro.store.publish import write_atomically
from solar_repro.training.flops import training_flops
from solar_repro.training.tuning_data import instruction_rows, preference_rows

SHAPES = {
    "1B": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "10.7B": load_scale("paper").base.shape.model_dump(exclude={"stored_bytes"})
    | {"model_type": "llama", "num_hidden_layers": 48},
}
SETS = {"sft": "alpaca_gpt4", "dpo": "ultrafeedback"}
"""Stage → the set of Table 1 in whose columns the rows are written."""
TEMPLATE_TOKENS = 40
"""Room for prompt and template."""
MEMORY_SHARE = 0.85
"""Of the GPU's, that the prediction may fill."""


def settings_of(stage: str, micro_batch: int) -> Training:
    """A stage's settings of scale `one_gpu`; an optimiser step is a micro-batch, all activations are kept."""
    return getattr(load_scale("one_gpu").in_precision("bfloat16"), stage).model_copy(
        update={
            "global_batch_size": micro_batch,
            "per_device_batch_size": micro_batch,
            "activation_checkpointing": False,
            "optimizer": "adamw_torch_fused",
        }
    )


def layers_that_fit(shape: Mapping[str, Any], settings: Mapping[str, Any], memory: float) -> int:
    """Most layers, up to the shape's own, whose training in every stage fits in `memory` bytes."""
    for layers in range(shape["num_hidden_layers"], 0, -1):
        config = {**shape, "num_hidden_layers": layers}
        needed = (
            costs.training_memory(config, chosen, "ddp", 1, stage == "dpo")
            for stage, chosen in settings.items()
        )
        if max(needed) <= memory:
            return layers
    raise SystemExit(f"not one layer of width {shape['hidden_size']} fits in {memory / 1e9:.0f} GB")


def write_random_llama(shape: Mapping[str, Any], folder: Path) -> None:
    """A Llama of this shape with random weights, and the embedded tokenizer, whose tokens are its first."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = load_training_tokenizer(FOLDER)
    config = AutoConfig.for_model(
        **shape,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_long_rows(mirror: Path, rows: int, sft_length: int, dpo_length: int) -> None:
    """Both sets in hub layout, of the embedded world's text, answers nearly as long as a sequence may be."""
    tokenizer = load_training_tokenizer(FOLDER)
    world = build_world(load_scale("check").world)
    lines = [line for text in documents(world, "train", 200) for line in text.splitlines() if line]
    counted = [(line, len(tokenizer(line)["input_ids"])) for line in lines]
    draw = random.Random(0)

    def text(length: int) -> str:
        chosen, found = [], 0
        while True:
            line, size = draw.choice(counted)
            if found + size > length - TEMPLATE_TOKENS:
                return " ".join(chosen)
            chosen, found = [*chosen, line], found + size

    def instructions() -> Iterator[dict[str, str]]:
        for number in range(rows):
            yield {"instruction": f"Tell me {number}.", "input": "", "output": text(sft_length), "text": ""}

    def talk(prompt: str) -> list[dict[str, str]]:
        answer = text(dpo_length)
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    def preferences() -> Iterator[dict[str, Any]]:
        for prompt in (f"Tell me {number}." for number in range(rows)):
            yield {"prompt": prompt, "chosen": talk(prompt), "rejected": talk(prompt)}

    about = "Long rows for measurements of speed."
    write_dataset(mirror, DATASETS[SETS["sft"]].hub_id, {"default": {"train": instructions()}}, about)
    write_dataset(mirror, DATASETS[SETS["dpo"]].hub_id, {"default": {"train_prefs": preferences()}}, about)


def preference_batches(pairs: Any, pad_token_id: int, size: int, steps: int) -> Batches:
    """Batches of 2 × `size` rows, all chosen then all rejected, with a mask of what is not padding."""
    import torch

    batches: Batches = []
    for step in range(steps):
        rows = list(pairs.select(range(step * size, (step + 1) * size)))
        ids = [row["prompt_ids"] + row[f"{kind}_ids"] for kind in ("chosen", "rejected") for row in rows]
        width = max(map(len, ids))
        padded = torch.tensor([row + [pad_token_id] * (width - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
        batches.append(({"input_ids": padded, "attention_mask": mask}, sum(map(len, ids))))
    return batches


def preference(network: Any, batch: dict[str, Any]) -> Any:
    """DPO's loss against a reference that prefers neither answer."""
    import torch

    logits = network(**batch, use_cache=False).logits[:, :-1]
    told = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none"
    )
    chosen, rejected = (-told * batch["attention_mask"][:, 1:]).sum(1).chunk(2)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()


def measure(
    shape: Mapping[str, Any], settings: Mapping[str, Any], steps: int, rounds: int, tflops: float
) -> dict[str, Any]:
    """By stage (`sft`, `dpo`): tokens a second and MFU of both contenders, and the share of the bare loop.

    Rounds alternate. `tflops`: the peak of the GPU, of which MFU is a share.
    """
    from solar_repro.stages import dpo, reference, sft

    sizes = {stage: chosen.global_batch_size for stage, chosen in settings.items()}
    chosen = {stage: settings[stage].model_copy(update={"max_steps": steps}) for stage in sizes}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        mirror, model = Path(temporary, "mirror"), Path(temporary, "model")
        write_random_llama(shape, model)
        tokenizer = load_training_tokenizer(model)
        set_chat_template(tokenizer, "solar")
        lengths = {stage: settings[stage].max_length for stage in sizes}
        write_long_rows(mirror, steps * max(sizes.values()), lengths["sft"], lengths["dpo"])
        sets = {stage: tuning_set(name) for stage, name in SETS.items()}
        inputs = TuningInputs(model=model, mirror=mirror)
        rows, _ = tokenise_instruction(instruction_rows(sets["sft"], 0, inputs), tokenizer, lengths["sft"])
        blocks, packed = pack_instruction(rows, lengths["sft"], temporary)
        pairs, report = tokenise_preferences(
            preference_rows(sets["dpo"], 0, inputs), tokenizer, lengths["dpo"]
        )
        of_sft = SftSettings(seed=0, datasets=(sets["sft"],), template="solar", sft=chosen["sft"])
        common = {"seed": 0, "datasets": (sets["dpo"],), "template": "solar"}
        of_dpo = DpoSettings(**common, dpo=chosen["dpo"])
        of_reference = ReferenceSettings(
            **common, max_length=lengths["dpo"], reference=FrozenModel.before(chosen["dpo"])
        )
        scored = Path(temporary, "reference")
        scored.mkdir()
        reference.run(scored, lambda metrics, step=0: None, of_reference, inputs)
        dpo_inputs = DpoInputs(**dict(inputs), reference=scored)
        contenders = {
            "sft": (
                packed_batches(blocks, tokenizer.pad_token_id, sizes["sft"], steps),
                language_modelling,
                packed["tokens"] / len(blocks),
                packed["tokens"] / packed["rows"],
                lambda out, log: sft.run(out, log, of_sft, inputs),
            ),
            "dpo": (
                preference_batches(pairs, tokenizer.pad_token_id, sizes["dpo"], steps),
                preference,
                report["tokens"] / len(pairs),
                report["tokens"] / len(pairs) / 2,
                lambda out, log: dpo.run(out, log, of_dpo, dpo_inputs),
            ),
        }
        for stage, (batches, loss_of, tokens_a_row, length, run) in contenders.items():
            rates: Rates = {"bare": [], "ours": []}
            peaks = dict.fromkeys(rates, 0.0)
            for _ in range(rounds):
                rates["bare"].append(bare(model, batches, loss_of, chosen[stage]))
                peaks["bare"] = _peak()
                rates["ours"].append(ours(run, sizes[stage] * tokens_a_row, steps))
                peaks["ours"] = _peak()
            per_token = training_flops(shape, round(length)) / (tflops * 1e12)
            mfu = {name: round(statistics.median(rates[name]) * per_token, 3) for name in rates}
            predicted = costs.training_memory(shape, chosen[stage], "ddp", 1, stage == "dpo") / 1e9
            found[stage] = summary(rates) | {
                "mfu": mfu,
                "tokens_a_sequence": round(length),
                "peak_gb": peaks,
                "predicted_gb": round(predicted, 1),
            }
    return found


def _peak() -> float:
    """GB that the GPU held at most since the last call; gives back what nobody holds. 0 without a GPU."""
    import torch

    gc.collect()
    if device() != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 1)


def main() -> None:
    import torch

    from solar_repro.plan.provenance import versions

    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--tflops",
        type=float,
        default=Hardware().gpu_tflops,
        help="the GPU's peak in dense bfloat16, in TFLOP/s",
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if device() != "cuda":
        parser.exit(2, "no GPU here; on a CPU: python -m benchmarks.performance.training\n")
    memory = torch.cuda.get_device_properties(0).total_memory * MEMORY_SHARE
    settings = {stage: settings_of(stage, options.micro_batch) for stage in SETS}
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(0), "tflops": options.tflops, "steps": options.steps,
        "versions": versions(), "shapes": {},
    }  # fmt: skip
    for name in options.shape:
        shape = SHAPES[name]
        shape = {**shape, "num_hidden_layers": layers_that_fit(shape, settings, memory)}
        stages = measure(shape, settings, options.steps, options.rounds, options.tflops)
        result["shapes"][name] = {
            "layers": shape["num_hidden_layers"], "parameters": parameters_of(shape), "stages": stages
        }  # fmt: skip
        text = json.dumps(result, indent=1)
        if options.out:
            write_atomically(options.out, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
