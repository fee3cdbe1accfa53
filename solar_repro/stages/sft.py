"""Instruction tuning (Sec. 3, Table 3) with TRL: chat template, loss on the answers, leak-free packing."""

from pathlib import Path
from typing import Any

from datasets import concatenate_datasets
from trl import SFTConfig, SFTTrainer

from solar_repro.data.cache import key_of
from solar_repro.data.packing import PackedCollator, pack_instruction
from solar_repro.data.templates import set_chat_template
from solar_repro.data.tokens import tokenise_instruction, tokenizer_fingerprint
from solar_repro.scales import InstructionTuning
from solar_repro.stages import Log
from solar_repro.stages.checkpoints import load, save
from solar_repro.stages.training import Report, arguments, train
from solar_repro.stages.tuning_data import instruction_rows, log_reports
from solar_repro.training_attention import use_training_attention


def run(
    out: Path,
    log: Log,
    *,
    model: Path,
    datasets: list[dict[str, Any]],
    template: str,
    sft: InstructionTuning,
    seed: int,
    mirror: Path | None,
    synth_math: Path | None = None,
) -> None:
    """Tune `model` on the named sets of Table 1 together and write it to `out`."""
    network, tokenizer = load(model)
    use_training_attention(network, sft.max_length)
    set_chat_template(tokenizer, template)
    tokenised, keys, reports = [], [], {}
    for chosen in datasets:
        rows = instruction_rows(chosen, seed, mirror, synth_math)
        ready, report = tokenise_instruction(rows, tokenizer, sft.max_length)
        tokenised.append(ready)
        keys.append(rows.key)
        reports[chosen["name"]] = {"rows": rows.report, "tokens": report}
    log_reports(out, log, reports)
    mixed = concatenate_datasets(tokenised).shuffle(seed=seed)
    key = key_of(rows=keys, tokenizer=tokenizer_fingerprint(tokenizer), seed=seed)
    blocks, packed = pack_instruction(mixed, sft.max_length, key)
    log({"data/padding_share": packed["padding_share"], "data/blocks": packed["blocks"]})
    options = arguments(sft, len(blocks), seed)
    trainer = SFTTrainer(
        network,
        # The rows are tokenised and packed: TRL prepares nothing and keeps their columns.
        SFTConfig(**options, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None),
        PackedCollator(tokenizer.pad_token_id),
        train_dataset=blocks,
        processing_class=tokenizer,
        callbacks=[Report("instruction tuning", log, options["max_steps"], _tokens_per_step(sft, packed))],
    )
    train(trainer)
    save(network, tokenizer, out)


def _tokens_per_step(settings: InstructionTuning, packed: dict[str, Any]) -> float:
    return settings.global_batch_size * packed["tokens"] / packed["blocks"]
