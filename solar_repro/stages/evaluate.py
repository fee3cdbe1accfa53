"""H6 (Sec. 4.1) through lm-eval, and the held-out loss of Sec. 2, of one model."""

import shutil
from pathlib import Path

from solar_repro.evaluation.evaluate import evaluate_h6
from solar_repro.evaluation.tasks import build_tasks
from solar_repro.scales import Corpus, Evaluate
from solar_repro.stages import Log
from solar_repro.stages.checkpoints import device, load
from solar_repro.stages.held_out import held_out_losses, held_out_texts, mean_loss, write_losses


def run(
    out: Path, log: Log, *, model: Path, evaluate: Evaluate, corpus: Corpus, seed: int, mirror: Path | None
) -> None:
    """Write `scores.json`, the items of each task and the held-out losses to `out`; the log gets the scores.

    Answers are kept beside `out` while they come, so that a killed evaluation goes on where it stopped.
    """
    answers = out.parent / ".answers" / model.name
    tasks = build_tasks(mirror, limits=evaluate.limits, subjects=evaluate.subjects, seed=seed)
    scores = evaluate_h6(
        model,
        tasks,
        out,
        device=device(),
        dtype=evaluate.precision,
        batch_tokens=evaluate.batch_tokens,
        work=answers,
    )
    shutil.rmtree(answers)
    log(scores.metrics())
    network, tokenizer = load(model)
    losses = held_out_losses(network.to(device()), tokenizer, held_out_texts(corpus, mirror))
    write_losses(losses, out)
    log({"held_out_loss": mean_loss(losses)})
