"""Continued pretraining of an up-scaled model (Sec. 2): packed causal language modelling."""

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments

from solar_repro.data.fingerprint import fingerprint
from solar_repro.data.locate import locate
from solar_repro.data.packing import PackedCollator, pack_text
from solar_repro.data.sources import load_text
from solar_repro.scales import Corpus, Pretraining
from solar_repro.stages import Log
from solar_repro.stages.checkpoints import load, save
from solar_repro.stages.held_out import held_out_loss, held_out_texts
from solar_repro.stages.training import Report, arguments, train
from solar_repro.training_attention import use_training_attention


class HeldOut(TrainerCallback):
    """Measures the held-out loss at the start, `evaluations` times along the way, and at the end."""

    def __init__(self, log: Log, tokenizer: Any, texts: list[str], evaluations: int) -> None:
        self._log, self._tokenizer, self._texts = log, tokenizer, texts
        self._evaluations = evaluations

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self._measure(model, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        every = max(1, state.max_steps // self._evaluations)
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            self._measure(model, state.global_step)

    def _measure(self, model: Any, step: int) -> None:
        loss = held_out_loss(model, self._tokenizer, self._texts)
        self._log({"recovery/held_out_loss": loss}, step)
        model.train()


def run(
    out: Path,
    log: Log,
    *,
    model: Path,
    corpus: Corpus,
    continue_pretrain: Pretraining,
    seed: int,
    mirror: Path | None,
) -> None:
    """Train `model` on `continue_pretrain.tokens` tokens of the corpus and write it to `out`."""
    settings = continue_pretrain
    network, tokenizer = load(model)
    use_training_attention(network, settings.max_length)
    location = locate(corpus.id, mirror)
    texts = load_text(location, corpus.split, corpus.column, seed=seed, epochs=None)
    name = f"{fingerprint(location)} {corpus.split} {corpus.column} {seed}"
    blocks, report = pack_text(texts, tokenizer, settings.max_length, key=name, max_tokens=settings.tokens)
    log({f"data/corpus/{figure}": report[figure] for figure in ("documents", "tokens")})
    tokens_per_step = settings.global_batch_size * settings.max_length
    options = arguments(settings, len(blocks), seed)
    trainer = Trainer(
        network,
        TrainingArguments(**options),
        PackedCollator(tokenizer.pad_token_id),
        blocks,
        callbacks=[
            Report("continued pretraining", log, options["max_steps"], tokens_per_step),
            HeldOut(log, tokenizer, held_out_texts(corpus, mirror), settings.held_out_evaluations),
        ],
    )
    train(trainer)
    save(network, tokenizer, out)
