"""The contamination test of Table 9 (neighbours), Min-K % Prob and Min-K %++ (Shi et al. 2023)."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from solar_repro.evaluation.contamination import min_k_scores, neighbour_test
from solar_repro.evaluation.contamination_texts import contamination_texts
from solar_repro.evaluation.statistics import auroc
from solar_repro.progress import Progress
from solar_repro.stages import NOTES, Log
from solar_repro.stages.checkpoints import device


def run(
    out: Path,
    log: Log,
    *,
    target: Path,
    reference: Path,
    tasks: list[str],
    examples: int,
    neighbours: int,
    k: float,
    seed: int,
    mirror: Path | None,
    precision: str = "float32",
) -> None:
    """Write each task's scores per example to `out`; the log gets the share below 0.1 and the AUROCs.

    Min-K % is judged by its AUROC between the tested texts and as many of a split that is not scored, where
    the benchmark has one: 0.5 says that the model tells neither apart.
    """
    (out / NOTES).mkdir(exist_ok=True)
    with Progress("contamination", len(tasks), "tasks") as progress:
        for task in tasks:
            texts = contamination_texts(task, mirror)
            if texts is None:
                continue  # not supported, as in the paper
            result = neighbour_test(
                target,
                reference,
                texts,
                examples=examples,
                neighbours=neighbours,
                seed=seed,
                device=device(),
                dtype=precision,
            )
            content: dict[str, Any] = {"task": task, "verdict": result.verdict(), **asdict(result)}
            low, high = result.interval
            log({f"contamination/{task}/neighbour": result.share})
            log({f"contamination/{task}/neighbour_low": low, f"contamination/{task}/neighbour_high": high})
            unseen = contamination_texts(task, mirror, reference=True)
            if unseen is not None:
                tested = [texts[example] for example in result.examples]
                content |= _min_k(log, task, target, tested, list(unseen[: len(tested)]), k, precision)
            text = json.dumps(content, indent=1, ensure_ascii=False)
            (out / f"{task}.json").write_text(text + "\n", encoding="utf-8")
            _histogram(task, result.scores, out / NOTES / f"neighbours_{task}.png")
            progress.advance(1, f"{task} {result.share:.2f}")


def _min_k(
    log: Log, task: str, target: Path, tested: list[str], unseen: list[str], k: float, precision: str
) -> dict[str, Any]:
    ours = min_k_scores(target, tested, (k,), device=device(), dtype=precision)
    theirs = min_k_scores(target, unseen, (k,), device=device(), dtype=precision)
    found = {}
    for name in ("min_k", "min_k_pp"):
        seen_scores, unseen_scores = getattr(ours, name)[k], getattr(theirs, name)[k]
        log({f"contamination/{task}/{name}": auroc(seen_scores, unseen_scores)})
        found[name] = {"tested": seen_scores, "unseen": unseen_scores}
    return found


def _histogram(task: str, scores: tuple[float, ...], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(scores, bins=[tenth / 10 for tenth in range(11)], color="tab:purple", alpha=0.7)
    axes.axvline(0.1, linestyle="--", color="grey")
    axes.set(xlabel="share of neighbours with a lower loss than the text", ylabel="texts", title=task)
    figure.savefig(file, dpi=120)
