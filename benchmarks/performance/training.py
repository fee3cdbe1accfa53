"""Measures training tokens per second of continued pretraining and SFT, beside a bare PyTorch loop.

    python -m benchmarks.performance.training --out training.json
    python -m benchmarks.performance.training --scale laptop --model DIR --mirror DIR --steps 8 --rounds 1

Both train the up-scaled base of a scale on the same blocks with the same optimiser and arithmetic. `ours` is
the stage itself, timed from the report of its second step to that of its last but one, so with everything
that happens between steps; `bare` is forward, backward, clipping and the optimiser on batches laid out
beforehand, without a schedule, a report or a data loader. Both have the threads of a step of the plan. Rounds
alternate; the figures are medians. `of_limit` is the share of model FLOPs (`training.flops`) in those of a
product of matrices of the model's own size, the best of several measured in each round.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.performance.memory import peak_mib, reset_peak
from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import dus
from solar_repro.checkpoint.load import load_for_training
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale
from solar_repro.contract import (
    ContinuePretrainSettings,
    PackedInputs,
    PackedSettings,
    PretrainedInputs,
    SftSettings,
    TuningInputs,
    TuningSet,
)
from solar_repro.data.locate import locate
from solar_repro.data.packed_text import read_packed_text
from solar_repro.data.packing import PackedCollator, pack_instruction
from solar_repro.data.templates import set_chat_template
from solar_repro.data.tokens import tokenise_instruction
from solar_repro.device import device, own_precision
from solar_repro.microworld.trained_base import FOLDER
from solar_repro.microworld.write import write_mirror
from solar_repro.paper.data_sets import DATASETS
from solar_repro.scales.load import load_scale
from solar_repro.scales.settings import Scale
from solar_repro.scales.training import Training
from solar_repro.store.publish import write_atomically
from solar_repro.training.flops import training_flops
from solar_repro.training.tuning_data import instruction_rows

Batches = list[tuple[dict[str, Any], int]]
"""Arguments of the model, and the tokens among them that are not padding."""
LossOf = Callable[[Any, dict[str, Any]], Any]
Rates = dict[str, list[float]]
"""`bare` and `ours`: tokens a second, a figure a round."""


def bare(model: Path, batches: Batches, loss_of: LossOf, settings: Training, accumulation: int = 1) -> float:
    """Tokens a second of a loop with nothing in it but the training, the first step left out.

    The optimiser steps behind every `accumulation` batches.
    """
    import torch
    from accelerate.utils import send_to_device

    network, _ = load_for_training(model)
    network.to(device()).train()
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, settings.adam_beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    tokens, started = 0, 0.0
    for number, (batch, size) in enumerate(batches, start=1):
        with torch.autocast(device(), torch.bfloat16, enabled=settings.precision == "bfloat16"):
            loss = loss_of(network, send_to_device(batch, device())) / accumulation
        loss.backward()
        if number > accumulation:
            tokens += size
        if number % accumulation:
            continue
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number == accumulation:
            _wait()
            started = time.perf_counter()
    _wait()
    return tokens / (time.perf_counter() - started)


def packed_batches(blocks: Any, pad_token_id: int, size: int, steps: int) -> Batches:
    """The first `steps` batches of `size` packed blocks, each with its number of tokens."""
    collate = PackedCollator(pad_token_id)
    rows = list(blocks.select(range(steps * size)))
    chosen = [rows[first : first + size] for first in range(0, len(rows), size)]
    return [(collate(batch), _tokens(batch)) for batch in chosen]


def language_modelling(network: Any, batch: dict[str, Any]) -> Any:
    """Loss of a packed batch."""
    return network(**batch).loss


def _wait() -> None:
    """Until the GPU has done what it was given."""
    import torch

    if device() == "cuda":
        torch.cuda.synchronize()


def ours(run: Callable[[Path, Callable[..., None]], None], tokens_a_step: float, steps: int) -> float:
    """Tokens a second of a stage, from the report of step 2 to that of the last but one."""
    reported: dict[int, float] = {}

    def log(metrics: dict[str, float], step: int = 0) -> None:
        if "loss" in metrics:
            reported[step] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), log)
    return tokens_a_step * (steps - 3) / (reported[steps - 1] - reported[2])


def _tokens(rows: list[dict[str, Any]]) -> int:
    return sum(len(row["input_ids"]) for row in rows)


def matmul_flops(rows: int, hidden: int, inner: int, half: bool) -> float:
    """FLOPs per second of a product [rows, hidden] × [hidden, inner], the best of ten."""
    import torch

    dtype = torch.bfloat16 if half else torch.float32
    left = torch.randn(rows, hidden, dtype=dtype, device=device())
    right = torch.randn(hidden, inner, dtype=dtype, device=device())
    times = []
    for _ in range(10):
        _wait()
        started = time.perf_counter()
        torch.mm(left, right)
        _wait()
        times.append(time.perf_counter() - started)
    return 2 * rows * hidden * inner / min(times)


def measure(
    scale: Scale, steps: int, rounds: int, base: Path = FOLDER, mirror: Path | None = None
) -> dict[str, Any]:
    """Tokens a second of both contenders in both stages, and the shares that ours reaches.

    Without a mirror, the embedded world's is written.
    """
    from solar_repro.stages import continue_pretrain, packed, sft

    found: dict[str, Rates] = {}
    shares: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        model, text = Path(temporary, "model"), Path(temporary, "text")
        model.mkdir()
        if mirror is None:
            mirror = Path(temporary, "mirror")
            write_mirror(mirror, scale.world)
        layer_map = dus(open_checkpoint(base).layers, scale.upscale.m)
        write_upscale(plan_upscale(base, layer_map, scale.upscale.shard_bytes), model)
        config = open_checkpoint(model).config
        _, tokenizer = load_for_training(model)
        pretraining = scale.continue_pretrain.model_copy(
            update={"max_steps": steps, "held_out_evaluations": 1}
        )
        tuning = scale.sft.model_copy(update={"max_steps": steps})
        text.mkdir()
        corpus = scale.data.corpus
        packed.run(
            text,
            lambda metrics, step=0: None,
            PackedSettings.before(corpus, pretraining, scale.seed),
            PackedInputs(model=model, mirror=mirror, held_out_split=corpus.held_out_split),
        )
        text_blocks, _ = read_packed_text(text, tokenizer)
        set_chat_template(tokenizer, scale.data.template)
        inputs = TuningInputs(model=model, mirror=mirror)
        chosen = tuning_set("alpaca_gpt4")
        stand_in = scale.data.stand_ins.get(chosen.name)
        chosen = chosen.model_copy(update={"id": locate(chosen.id, mirror, stand_in).used})
        rows = instruction_rows(chosen, scale.seed, inputs)
        tokenised, _ = tokenise_instruction(rows, tokenizer, tuning.max_length)
        chat_blocks, chat_report = pack_instruction(tokenised, tuning.max_length, temporary)
        contenders = {
            "continue_pretrain": (
                text_blocks,
                pretraining,
                pretraining.global_batch_size * pretraining.max_length,
                lambda out, log: continue_pretrain.run(
                    out,
                    log,
                    ContinuePretrainSettings(
                        seed=scale.seed, corpus=scale.data.corpus, continue_pretrain=pretraining
                    ),
                    PretrainedInputs(model=model, packed=text, mirror=mirror),
                ),
            ),
            "sft": (
                chat_blocks,
                tuning,
                tuning.global_batch_size * chat_report["tokens"] / chat_report["blocks"],
                lambda out, log: sft.run(
                    out,
                    log,
                    SftSettings(
                        seed=scale.seed, datasets=(chosen,), template=scale.data.template, sft=tuning
                    ),
                    inputs,
                ),
            ),
        }
        for _ in range(rounds):
            for name, (blocks, settings, tokens_a_step, run) in contenders.items():
                rates = found.setdefault(name, {"bare": [], "ours": []})
                size, parts = settings.per_device_batch_size, settings.accumulation()
                batches = packed_batches(blocks, tokenizer.pad_token_id, size, steps * parts)
                rates["bare"].append(bare(model, batches, language_modelling, settings, parts))
                reset_peak()
                rates["ours"].append(ours(run, tokens_a_step, steps))
                peaks[name] = max(peaks.get(name, 0.0), peak_mib())
                rows, half = size * settings.max_length, settings.precision == "bfloat16"
                limit = matmul_flops(rows, config["hidden_size"], config["intermediate_size"], half)
                share = rates["ours"][-1] * training_flops(config, settings.max_length) / limit
                shares.setdefault(name, []).append(share)
    return {
        name: summary(rates)
        | {"of_limit": round(statistics.median(shares[name]), 3), "peak_mib": round(peaks[name])}
        for name, rates in found.items()
    }


def tuning_set(name: str) -> TuningSet:
    """Return a set of Table 1 as a stage takes it, all of its rows."""
    source = DATASETS[name]
    return TuningSet(name=name, id=source.hub_id, maximum_samples=source.maximum_samples)


def summary(rates: Rates) -> dict[str, Any]:
    """Every round's tokens a second, and the share of the bare loop's median that ours reaches."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rounded = {name: [round(value) for value in values] for name, values in rates.items()}
    return {"tokens_per_second": rounded, "share": round(medians["ours"] / medians["bare"], 3)}


def main() -> None:
    import torch

    from solar_repro.plan.provenance import versions

    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", default="smoke")
    parser.add_argument(
        "--model", type=Path, default=FOLDER, help="the base's folder (default: the embedded)"
    )
    parser.add_argument(
        "--mirror",
        type=Path,
        help="folder of data sets, laid out as on the hub (default: the embedded world)",
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    scale = load_scale(options.scale).in_precision(own_precision())
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // scale.execution.jobs))
    result = {
        "scale": options.scale,
        "steps": options.steps,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "stages": measure(scale, options.steps, options.rounds, options.model, options.mirror),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        write_atomically(options.out, text + "\n")


if __name__ == "__main__":
    main()
