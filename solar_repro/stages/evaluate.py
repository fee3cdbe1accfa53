"""H6 (Sec. 4.1) through lm-eval of one model, and of a variant the held-out loss of Sec. 2."""

from pathlib import Path

import torch

from solar_repro.checkpoint.load import load_for_training, round_linear_layers
from solar_repro.contract import EvaluateInputs, EvaluateSettings
from solar_repro.device import device
from solar_repro.h6.evaluation import evaluate_h6
from solar_repro.h6.tasks import build_tasks
from solar_repro.layers.fused_scoring import fuse_for_scoring
from solar_repro.paper.benchmarks import LEADERBOARD_GSM8K_STOP
from solar_repro.store.result import Log
from solar_repro.store.resume import ResumeFolder
from solar_repro.training.held_out import held_out_losses, held_out_texts, mean_loss, write_losses


def run(
    out: Path,
    log: Log,
    settings: EvaluateSettings,
    inputs: EvaluateInputs,
    resume: ResumeFolder | None = None,
) -> None:
    """Write `scores.json` and the items of each task to `out`; the log gets the scores in percent.

    With a `corpus`, the losses of its held-out documents as well. With `resume`, answers are kept in its
    folder as they come, so that a killed evaluation goes on where it stopped.
    """
    evaluate, corpus = settings.evaluate, settings.corpus
    texts = held_out_texts(corpus, inputs.mirror) if corpus is not None else None
    tasks = build_tasks(
        inputs.mirror,
        limits=evaluate.limits,
        subjects=evaluate.subjects,
        seed=settings.seed,
        gsm8k_stop=LEADERBOARD_GSM8K_STOP if evaluate.gsm8k_stop == "leaderboard" else None,
    )
    scores = evaluate_h6(
        inputs.model,
        tasks,
        out,
        device=device(),
        dtype=evaluate.precision,
        batch_tokens=evaluate.batch_tokens,
        server=inputs.server,
        work=resume.folder if resume else None,
    )
    log(scores.metrics())
    if texts is not None:
        network, tokenizer = load_for_training(inputs.model)
        half = torch.float16 if evaluate.precision == "float16" else torch.bfloat16
        on_gpu = device() == "cuda" and evaluate.precision != "float32"
        if on_gpu:
            round_linear_layers(network, half)
        network.to(device())
        fuse_for_scoring(network)
        with torch.autocast(device(), half, enabled=on_gpu):
            losses = held_out_losses(network, tokenizer, texts)
        write_losses(losses, out)
        log({"held_out_loss": mean_loss(losses)})
