"""Alignment tuning (Sec. 3, Tables 4–6) by direct preference optimisation (Rafailov et al. 2023) with TRL."""

from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from solar_repro.contract import DpoInputs, DpoSettings
from solar_repro.data.templates import set_chat_template
from solar_repro.layers.training_attention import use_training_attention
from solar_repro.store.result import Log
from solar_repro.store.resume import ResumeFolder
from solar_repro.training.adapters import load_for_tuning
from solar_repro.training.reference import with_reference
from solar_repro.training.trainer import PlainTrainer, ReportProgress, arguments, train
from solar_repro.training.tuning_data import preference_pairs


class TokenisedDPOTrainer(PlainTrainer, DPOTrainer):
    """TRL's trainer on rows that hold token ids and the reference's log-probabilities already."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _send_telemetry(self) -> None:
        """Send nothing, and hide FSDP until `_precompute_ref_logps`.

        TRL would load a second copy of the model as reference in between, in each process.
        """
        super()._send_telemetry()
        self.is_fsdp_enabled = False

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        self.is_fsdp_enabled = getattr(self.accelerator.state, "fsdp_plugin", None) is not None
        return dataset


def run(
    out: Path, log: Log, settings: DpoSettings, inputs: DpoInputs, resume: ResumeFolder | None = None
) -> None:
    """Tune the model on the named preference sets and write it to `out`.

    The reference is the model before its first step. Stage `reference` has scored the pairs with it.
    """
    training, seed = settings.training, settings.seed
    network, tokenizer = load_for_tuning(inputs.model, training, seed)
    set_chat_template(tokenizer, settings.template)
    pairs, tokens = preference_pairs(out, log, settings, training.max_length, inputs, tokenizer)
    pairs = with_reference(pairs, inputs.reference).shuffle(seed=seed)
    options = arguments(training, len(pairs), seed)
    use_training_attention(network, training.precision)
    network.state_dict = dict  # TRL hashes the weights for a cache of references, which is not used here
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
                tokens / len(pairs) / 2,
            )
        ],
    )
    del network.state_dict
    if is_peft_model(network):  # TRL copies the adapters for the reference, which is computed already
        network.delete_adapter("ref")
    train(trainer, tokenizer, out, resume, settings)
