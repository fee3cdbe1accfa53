"""Measures training rows per second: packed, as stage `sft` trains, beside TRL's padded batches.

    python -m benchmarks.performance.sft_packing --mirror ../shared/hub --model ../shared/models/stories260K

All contenders train on the flan-cot rows, tokenised once, with the loss on the answers alone; an optimiser
step sees the same number of (real) tokens. `padded` is TRL's SFTTrainer with its default of 8 rows per batch,
the step's other rows by accumulation; `padded, one batch` the step's rows at once; `packed` the stage's
trainer, attention and blocks, about 8 blocks per batch. Rounds alternate in one process; without a GPU the
rates are by processor time.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.load import pretrained_model, pretrained_tokenizer
from solar_repro.data.card import quantiles, sequence_lengths
from solar_repro.data.locate import locate
from solar_repro.data.packing import PackedCollator, pack_instruction
from solar_repro.data.sources import load_instruction
from solar_repro.data.templates import set_chat_template
from solar_repro.data.tokens import tokenise_instruction
from solar_repro.store.publish import write_atomically


def train(
    options: argparse.Namespace, tokenizer: Any, rows: Any, blocks: Any, contender: str
) -> dict[str, Any]:
    import torch
    from transformers import TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    from solar_repro.layers.training_attention import use_training_attention
    from solar_repro.stages.sft import AnswersTrainer

    set_seed(0)
    model = pretrained_model(options.model, dtype=torch.float32)
    mean = sequence_lengths(rows).mean()
    rows_a_step = max(8, round(options.tokens_a_step / mean / 8) * 8)
    if contender == "packed":
        data = blocks
        kind, collator = AnswersTrainer, PackedCollator(tokenizer.pad_token_id)
        use_training_attention(model, "float32")
        blocks_a_step = rows_a_step / len(rows) * len(blocks)
        accumulation = max(1, round(blocks_a_step / 8))
        batch = max(1, round(blocks_a_step / accumulation))
    else:
        kind, collator = SFTTrainer, None
        data = rows.map(_labels, remove_columns=["completion_mask"])
        batch = 8 if contender == "padded" else rows_a_step
        accumulation = rows_a_step // batch
    steps = options.steps
    # Without a GPU processor time, so that what else the machine does counts for none of the contenders.
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    seconds: list[float] = []
    losses: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(clock())

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            report_to=[],
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = kind(
            model, config, collator, train_dataset=data, processing_class=tokenizer, callbacks=[Watch()]
        )
        trainer.train()
    # The first step builds what the others find.
    rate = (steps - 1) * batch * accumulation / (seconds[-1] - seconds[0])
    per_sample = len(rows) / len(blocks) if contender == "packed" else 1
    quarter = max(1, steps // 4)
    return {
        "rows_per_second": rate * per_sample,
        "rows_a_step": batch * accumulation * per_sample,
        "tokens_a_step": batch * accumulation * per_sample * mean,
        "first_loss": losses[0],
        "last_loss": sum(losses[-quarter:]) / quarter,
    }


def _labels(row: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(row["input_ids"], row["completion_mask"], strict=True)
    return {"labels": [token if keep else -100 for token, keep in pairs]}


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--tokenizer", help="tokenizer to use instead of the model's (its ids must fit the model)"
    )
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--tokens-a-step", type=int, default=16_384)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    tokenizer = pretrained_tokenizer(options.tokenizer or options.model)
    set_chat_template(tokenizer)
    location = locate("Open-Orca/OpenOrca", options.mirror, "google-research/flan-cot")
    with tempfile.TemporaryDirectory() as cache:
        loaded = load_instruction("openorca", location, max_samples=options.rows, cache_dir=Path(cache))
        rows, _ = tokenise_instruction(loaded, tokenizer, options.length, cache_dir=Path(cache))
        blocks, packed = pack_instruction(rows, options.length, loaded.key, Path(cache))
        print(
            "tokens a row:", quantiles(sequence_lengths(rows)), "padding in blocks:", packed["padding_share"]
        )
        contenders = ("padded", "padded, one batch", "packed")
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            for name in contenders:
                found[name].append(train(options, tokenizer, rows, blocks, name))
                print(name, json.dumps(found[name][-1]), flush=True)
    best = {name: max(run["rows_per_second"] for run in runs) for name, runs in found.items()}
    for name in contenders[:2]:
        print(f"packed beside {name}: {best['packed'] / best[name]:.2f} × the rows per second")
    if options.json:
        write_atomically(options.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
