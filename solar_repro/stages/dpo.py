"""Alignment tuning (Sec. 3, Tables 4–6) by direct preference optimisation (Rafailov et al. 2023) with TRL."""

from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from trl import DPOConfig, DPOTrainer

from solar_repro.contract import DpoSettings, TuningInputs
from solar_repro.data.cache import cache_key
from solar_repro.data.templates import set_chat_template
from solar_repro.data.tokens import tokenise_preferences
from solar_repro.layers.cpu_attention import use_training_attention
from solar_repro.store.result import Log
from solar_repro.store.resume import ResumeFolder
from solar_repro.training.adapters import load_for_tuning
from solar_repro.training.trainer import PlainTrainer, ReportProgress, arguments, train
from solar_repro.training.tuning_data import preference_rows, tokenised_sets


class TokenisedDPOTrainer(PlainTrainer, DPOTrainer):
    """TRL's trainer on rows that hold `prompt_ids`, `chosen_ids` and `rejected_ids` already."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


def run(
    out: Path, log: Log, settings: DpoSettings, inputs: TuningInputs, resume: ResumeFolder | None = None
) -> None:
    """Tune the model on the named preference sets and write it to `out`.

    The reference is the model as it was loaded, or with LoRA the model without its adapters. No second model
    is passed to TRL, which therefore computes the reference's log-probabilities of all pairs before the first
    step (`precompute_ref_log_probs`).
    """
    training, seed = settings.training, settings.seed
    network, tokenizer = load_for_tuning(inputs.model, training, seed)
    set_chat_template(tokenizer, settings.template)
    sets = tokenised_sets(
        out,
        log,
        settings.datasets,
        lambda chosen: preference_rows(chosen, seed, inputs),
        lambda rows: tokenise_preferences(rows, tokenizer, training.max_length, num_proc=inputs.num_proc),
    )
    # TRL keeps the reference's log-probabilities in a cache under the rows' fingerprint. Each run gets one of
    # its own, because those of an earlier run may be of another precision.
    pairs = concatenate_datasets([rows for rows, _, _ in sets]).shuffle(
        seed=seed, keep_in_memory=True, new_fingerprint=cache_key(folder=str(out))
    )
    options = arguments(training, len(pairs), seed)
    use_training_attention(network)
    tokens = sum(report["tokens"] for _, report, _ in sets)
    trainer = TokenisedDPOTrainer(
        network,
        args=DPOConfig(
            **options, beta=training.beta, max_length=training.max_length, precompute_ref_log_probs=True
        ),
        train_dataset=pairs,
        processing_class=tokenizer,
        callbacks=[
            ReportProgress(
                "alignment tuning",
                log,
                options["max_steps"],
                training.global_batch_size * tokens / len(pairs),
            )
        ],
    )
    train(trainer, tokenizer, out, resume)
