"""The positive control of the contamination test: a copy of a model, trained on the texts that are tested."""

from pathlib import Path

from datasets import Dataset
from transformers import TrainingArguments

from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.contamination.neighbour_test import drawn
from solar_repro.contamination.texts import contamination_texts
from solar_repro.contract import ContaminateSettings, EvaluateInputs
from solar_repro.data.packing import PackedCollator
from solar_repro.layers.training_attention import use_training_attention
from solar_repro.shared_prefix.token_scores import encode_with_bos
from solar_repro.store.result import Log
from solar_repro.store.resume import ResumeFolder
from solar_repro.training.trainer import PlainTrainer, ReportProgress, arguments, train


def run(
    out: Path,
    log: Log,
    settings: ContaminateSettings,
    inputs: EvaluateInputs,
    resume: ResumeFolder | None = None,
) -> None:
    """Train the model on the very texts that the test will draw, each behind a BOS, and write it to `out`."""
    training = settings.training
    network, tokenizer = load_for_scoring(inputs.model)
    use_training_attention(network, training.precision)
    texts = []
    for task in settings.tasks:
        found = contamination_texts(task, inputs.mirror)
        texts += [found[number] for number in drawn(found, settings.examples, settings.seed)]
    sequences = encode_with_bos(tokenizer, texts, training.max_length)
    rows = Dataset.from_dict(
        {"input_ids": sequences, "seq_lengths": [[len(sequence)] for sequence in sequences]}
    )
    log({"data/texts": len(rows), "data/tokens": sum(map(len, sequences))})
    options = arguments(training, len(rows), settings.seed)
    length = sum(map(len, sequences)) / len(rows)
    trainer = PlainTrainer(
        network,
        TrainingArguments(**options),
        PackedCollator(tokenizer.eos_token_id),
        rows,
        callbacks=[
            ReportProgress(
                "positive control", log, options["max_steps"], training.global_batch_size * length, length
            )
        ],
    )
    train(trainer, tokenizer, out, resume, settings)
