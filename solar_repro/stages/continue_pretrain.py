"""Continued pretraining of an up-scaled model (Sec. 2): packed causal language modelling."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TrainerCallback, TrainingArguments, set_seed

from solar_repro.contract import ContinuePretrainSettings, PretrainedInputs
from solar_repro.data.packed_text import corpus_figures, read_packed_text
from solar_repro.data.packing import PackedCollator
from solar_repro.layers.training_attention import use_training_attention
from solar_repro.store.result import CARDS, Log
from solar_repro.store.resume import ResumeFolder
from solar_repro.training.adapters import load_whole
from solar_repro.training.held_out import held_out_texts, shared_mean_loss
from solar_repro.training.trainer import PlainTrainer, ReportProgress, arguments, train


class HeldOut(TrainerCallback):
    """Measures the held-out loss at the start, `evaluations` times along the way, and at the end.

    All processes take part.
    """

    def __init__(self, log: Log, tokenizer: Any, texts: list[str], evaluations: int, *, half: bool) -> None:
        self._log, self._tokenizer, self._texts = log, tokenizer, texts
        self._evaluations, self._half = evaluations, half

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self._measure(model, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        every = max(1, state.max_steps // self._evaluations)
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            self._measure(model, state.global_step)

    def _measure(self, model: Any, step: int) -> None:
        # DeepSpeed hands over the bare model, which no autocast surrounds; elsewhere one does already.
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self._half):
            loss = shared_mean_loss(model, self._tokenizer, self._texts)
        self._log({"recovery/held_out_loss": loss}, step)
        model.train()


def run(
    out: Path,
    log: Log,
    settings: ContinuePretrainSettings,
    inputs: PretrainedInputs,
    resume: ResumeFolder | None = None,
) -> None:
    """Train the model on the packed text, `continue_pretrain.tokens` tokens, and write it to `out`."""
    training, seed = settings.training, settings.seed
    unseen = held_out_texts(settings.corpus, inputs.mirror)
    network, tokenizer = load_whole(inputs.model)
    if settings.from_scratch:
        set_seed(seed)
        network = AutoModelForCausalLM.from_config(
            network.config, dtype=torch.float32, trust_remote_code=False
        )
    blocks, report = read_packed_text(inputs.packed, tokenizer)
    shutil.copytree(inputs.packed / CARDS, out / CARDS, dirs_exist_ok=True)
    log({f"data/corpus/{figure}": value for figure, value in corpus_figures(report).items()})
    length = training.max_length
    options = arguments(training, len(blocks), seed)
    use_training_attention(network, training.precision)
    trainer = PlainTrainer(
        network,
        TrainingArguments(**options),
        PackedCollator(tokenizer.pad_token_id),
        blocks,
        callbacks=[
            ReportProgress(
                "continued pretraining",
                log,
                options["max_steps"],
                training.global_batch_size * length,
                length,
            ),
            HeldOut(
                log,
                tokenizer,
                unseen,
                training.held_out_evaluations,
                half=training.precision == "bfloat16",
            ),
        ],
    )
    train(trainer, tokenizer, out, resume, settings)
