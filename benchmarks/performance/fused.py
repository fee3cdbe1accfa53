"""Compares fused layers with those of transformers on a CPU in float32: a training step, scoring, and Muon.

    python -m benchmarks.performance.fused

Both contenders take turns in one process on one thread, as the plan of scale `smoke` computes; the model is
the shipped base, up-scaled. The printed JSON holds the tokens/s of all rounds (Muon: steps/s), their
medians, and the median of the rounds' ratios.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from solar_repro.checkpoint.layer_map import dus
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale
from solar_repro.microworld.corpus import documents
from solar_repro.microworld.trained_base import FOLDER
from solar_repro.microworld.world import build_world
from solar_repro.scales.load import load_scale
from solar_repro.scales.settings import Scale

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

STEPS = 4
"""Passes of one round."""


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measure(options.rounds), indent=1))


def measure(rounds: int) -> dict[str, Any]:
    """Training, scoring and the optimizer of the embedded base, each by both contenders."""
    scale = load_scale("smoke").in_precision("float32")
    with tempfile.TemporaryDirectory() as folder:
        write_upscale(plan_upscale(FOLDER, dus(8, scale.upscale.m), scale.upscale.shard_bytes), Path(folder))
        return {
            "training": beside(training(Path(folder), scale), rounds),
            "scoring": beside(scoring(Path(folder), scale), rounds),
            "muon": beside(muon(), rounds),
        }


def beside(contenders: dict[str, Callable[[], int]], rounds: int) -> dict[str, Any]:
    """Units a second of each, by turns; the first round of each warms up."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            started = time.perf_counter()
            units = work()
            if number:
                found[name].append(units / (time.perf_counter() - started))
    ratios = [fused / plain for plain, fused in zip(found["plain"], found["fused"], strict=True)]
    return {
        "median": {name: round(statistics.median(rates), 1) for name, rates in found.items()},
        "rounds": {name: [round(rate, 1) for rate in rates] for name, rates in found.items()},
        "ratio": round(statistics.median(ratios), 2),
    }


def training(folder: Path, scale: Scale) -> dict[str, Callable[[], int]]:
    """Forward and backward passes of micro-batches of continued pretraining: tokens."""
    from solar_repro.checkpoint.load import load_for_training
    from solar_repro.data.packing import PackedCollator, pack_text
    from solar_repro.layers import cpu_attention

    settings = scale.continue_pretrain
    _, tokenizer = load_for_training(folder)
    texts = documents(build_world(scale.world), "train", scale.world.documents)
    size = settings.per_device_batch_size
    most = STEPS * size * settings.max_length
    blocks, _ = pack_text(
        list(islice(texts, 5_000)), tokenizer, settings.max_length, key=str(folder), max_tokens=most,
        cache_dir=folder / "rows",
    )  # fmt: skip
    rows = list(blocks)
    collate = PackedCollator(tokenizer.pad_token_id)
    batches = [collate(rows[first : first + size]) for first in range(0, STEPS * size, size)]

    def passes(model: "PreTrainedModel") -> int:
        for batch in batches:
            model(**batch).loss.backward()
        model.zero_grad()
        return most

    models = {}
    for name in ("plain", "fused"):
        model, _ = load_for_training(folder)
        with patch.object(cpu_attention, "can_fuse", lambda _, fused=name == "fused": fused):
            cpu_attention.use_cpu_training_attention(model.train())
        models[name] = model
    return {name: lambda model=model: passes(model) for name, model in models.items()}


def scoring(folder: Path, scale: Scale) -> dict[str, Callable[[], int]]:
    """Passes over prompts of the model's whole context, of which the last 16 positions are scored: tokens."""
    import torch

    from solar_repro.checkpoint.load import load_for_training
    from solar_repro.layers.cpu_attention import use_scoring_attention
    from solar_repro.layers.fused_scoring import fuse_for_scoring, logits_at

    generator = torch.Generator().manual_seed(0)
    models = {name: load_for_training(folder)[0].eval() for name in ("plain", "fused")}
    fuse_for_scoring(models["fused"])
    length = models["plain"].config.max_position_embeddings
    rows = scale.evaluate.batch_tokens // length
    prompts = torch.randint(4, 1024, (STEPS, rows, length), generator=generator)
    which = torch.arange(rows).repeat_interleave(16)
    where = torch.arange(length - 16, length).repeat(rows)

    def passes(model: "PreTrainedModel") -> int:
        for tokens in prompts:
            with torch.inference_mode(), logits_at(model, which, where):
                model(input_ids=tokens, use_cache=False)
        return prompts.numel()

    for model in models.values():
        use_scoring_attention(model)
    return {name: lambda model=model: passes(model) for name, model in models.items()}


def muon() -> dict[str, Callable[[], int]]:
    """Steps of Muon on the matrices of the embedded base's eight layers; plain: PyTorch's, in bfloat16."""
    import torch

    from solar_repro.microworld.muon import Float32Muon

    generator = torch.Generator().manual_seed(0)
    shapes = 8 * [*4 * [(128, 128)], (320, 128), (320, 128), (128, 320)]

    def optimizer(kind: type["torch.optim.Optimizer"]) -> "torch.optim.Optimizer":
        weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        return kind(weights, adjust_lr_fn="match_rms_adamw")

    def step(chosen: "torch.optim.Optimizer") -> int:
        chosen.step()
        return 1

    chosen = {"plain": optimizer(torch.optim.Muon), "fused": optimizer(Float32Muon)}
    return {name: lambda one=one: step(one) for name, one in chosen.items()}


if __name__ == "__main__":
    main()
