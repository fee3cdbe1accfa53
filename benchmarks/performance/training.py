"""Measures training tokens per second of continued pretraining and SFT, beside a bare PyTorch loop.

    python -m benchmarks.performance.training --out training.json

Both train the up-scaled base of a scale on the same blocks with the same optimiser and arithmetic. `ours` is
the stage itself, timed from the report of its second step to that of its last but one, so with everything
that happens between steps; `bare` is forward, backward, clipping and the optimiser on batches laid out
beforehand, without a schedule, a report or a data loader. Both have the threads of a step of the plan. Rounds
alternate; the figures are medians.
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
from solar_repro.data.packed_text import read_packed_text
from solar_repro.data.packing import PackedCollator, pack_instruction
from solar_repro.data.templates import set_chat_template
from solar_repro.data.tokens import tokenise_instruction
from solar_repro.device import device, own_precision
from solar_repro.microworld.trained_base import FOLDER
from solar_repro.microworld.write import write_mirror
from solar_repro.paper.data_sets import DATASETS
from solar_repro.scales.load import load_scale
from solar_repro.scales.settings import Scale, Training
from solar_repro.store.publish import write_atomically
from solar_repro.training.tuning_data import instruction_rows

Batches = list[tuple[dict[str, Any], int]]
"""Arguments of the model, and the tokens among them that are not padding."""
LossOf = Callable[[Any, dict[str, Any]], Any]
Rates = dict[str, list[float]]
"""`bare` and `ours`: tokens a second, a figure a round."""


def bare(model: Path, batches: Batches, loss_of: LossOf, settings: Training) -> float:
    """Tokens a second of a loop with nothing in it but the training, the first step left out."""
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
    for step, (batch, size) in enumerate(batches):
        with torch.autocast(device(), torch.bfloat16, enabled=settings.precision == "bfloat16"):
            loss = loss_of(network, send_to_device(batch, device()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step == 0:
            _wait()
            started = time.perf_counter()
        else:
            tokens += size
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


def measure(scale: Scale, steps: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of both contenders in both stages, and the share that ours reaches."""
    from solar_repro.stages import continue_pretrain, packed, sft

    found: dict[str, Rates] = {}
    with tempfile.TemporaryDirectory() as temporary:
        mirror, model, text = (Path(temporary, name) for name in ("mirror", "model", "text"))
        write_mirror(mirror, scale.world)
        model.mkdir()
        write_upscale(plan_upscale(FOLDER, dus(8, scale.upscale.m), scale.upscale.shard_bytes), model)
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
            PackedSettings(
                id=corpus.id,
                split=corpus.split,
                column=corpus.column,
                tokens=pretraining.tokens,
                max_length=pretraining.max_length,
                seed=scale.seed,
            ),
            PackedInputs(model=model, mirror=mirror, held_out_split=corpus.held_out_split),
        )
        text_blocks, _ = read_packed_text(text, tokenizer)
        set_chat_template(tokenizer, scale.data.template)
        inputs = TuningInputs(model=model, mirror=mirror)
        chosen = tuning_set("alpaca_gpt4")
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
                batches = packed_batches(blocks, tokenizer.pad_token_id, settings.global_batch_size, steps)
                rates["bare"].append(bare(model, batches, language_modelling, settings))
                rates["ours"].append(ours(run, tokens_a_step, steps))
    return {name: summary(rates) for name, rates in found.items()}


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
        "stages": measure(scale, options.steps, options.rounds),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        write_atomically(options.out, text + "\n")


if __name__ == "__main__":
    main()
