"""Instruction tuning (Sec. 3, Table 3) with TRL: chat template, loss on the answers, leak-free packing."""

from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import concatenate_datasets
from trl import SFTConfig, SFTTrainer

from solar_repro.checkpoint.tokenizer import tokenizer_digest
from solar_repro.contract import SftSettings, TuningInputs
from solar_repro.data.cache import cache_key
from solar_repro.data.packing import PackedCollator, pack_instruction
from solar_repro.data.templates import set_chat_template
from solar_repro.data.tokens import tokenise_instruction
from solar_repro.layers.training_attention import use_training_attention
from solar_repro.scales.training import InstructionTuning
from solar_repro.store.result import Log
from solar_repro.store.resume import ResumeFolder
from solar_repro.training.adapters import load_for_tuning
from solar_repro.training.trainer import PlainTrainer, ReportProgress, arguments, train
from solar_repro.training.tuning_data import instruction_rows, tokenised_sets


class AnswersTrainer(PlainTrainer, SFTTrainer):
    """TRL's trainer, whose head scores the answers alone: without a GPU TRL's scores every prompt as well."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        labels = inputs["labels"][:, 1:]
        scored = labels != -100

        def answers_alone(module: Any, arguments: Any, output: Any) -> None:
            output.last_hidden_state = output.last_hidden_state[:, :-1][scored][None]

        whole = self.model.get_base_model() if is_peft_model(self.model) else self.model
        hook = whole.base_model.register_forward_hook(answers_alone)
        try:
            inputs["shift_labels"] = labels[scored][None]
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            hook.remove()


def run(
    out: Path, log: Log, settings: SftSettings, inputs: TuningInputs, resume: ResumeFolder | None = None
) -> None:
    """Tune the model on the named sets of Table 1 together and write it to `out`."""
    training, seed = settings.training, settings.seed
    network, tokenizer = load_for_tuning(inputs.model, training, seed)
    set_chat_template(tokenizer, settings.template)
    sets = tokenised_sets(
        out,
        log,
        settings.datasets,
        lambda chosen: instruction_rows(chosen, seed, inputs),
        lambda rows: tokenise_instruction(rows, tokenizer, training.max_length, num_proc=inputs.num_proc),
    )
    mixed = concatenate_datasets([rows for rows, _, _ in sets]).shuffle(seed=seed)
    key = cache_key(rows=[key for _, _, key in sets], tokenizer=tokenizer_digest(tokenizer), seed=seed)
    blocks, packed = pack_instruction(mixed, training.max_length, key)
    log({"data/padding_share": packed["padding_share"], "data/blocks": packed["blocks"]})
    options = arguments(training, len(blocks), seed)
    use_training_attention(network, training.precision)
    trainer = AnswersTrainer(
        network,
        # The rows are tokenised and packed: TRL prepares nothing and keeps their columns.
        SFTConfig(**options, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None),
        PackedCollator(tokenizer.pad_token_id),
        train_dataset=blocks,
        processing_class=tokenizer,
        callbacks=[
            ReportProgress(
                "instruction tuning",
                log,
                options["max_steps"],
                _tokens_per_step(training, packed),
                packed["tokens"] / packed["rows"],
            )
        ],
    )
    train(trainer, tokenizer, out, resume, settings)


def _tokens_per_step(settings: InstructionTuning, packed: dict[str, Any]) -> float:
    return settings.global_batch_size * packed["tokens"] / packed["blocks"]
