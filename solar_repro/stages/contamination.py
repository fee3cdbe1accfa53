"""The contamination test of Table 9 (neighbours), Min-K % Prob and Min-K %++ (Shi et al. 2023)."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.contamination.min_k import METHODS, MinKScores, compare_min_k, min_k_scores
from solar_repro.contamination.neighbour_test import drawn, neighbour_test
from solar_repro.contamination.texts import contamination_texts
from solar_repro.contract import ContaminationInputs, ContaminationSettings
from solar_repro.data.histogram import draw_histogram
from solar_repro.device import device
from solar_repro.layers.fused_scoring import fuse_for_scoring
from solar_repro.store.result import NOTES, Log
from solar_repro.terminal.progress import Progress


def run(out: Path, log: Log, settings: ContaminationSettings, inputs: ContaminationInputs) -> None:
    """Write `<task>.json` to `out`: every text with its scores, and `verdicts`, a line for each test.

    The log gets the share below 0.1 and, where the benchmark has a split that is not scored, the AUROC of
    Min-K % between the tested texts and as many of that split.
    """
    (out / NOTES).mkdir(exist_ok=True)
    model = load_for_scoring(inputs.target, device=device(), dtype=settings.precision)
    same = str(inputs.target) == str(inputs.reference)
    writer = model if same else load_for_scoring(inputs.reference, device=device(), dtype=settings.precision)
    fuse_for_scoring(model)
    fuse_for_scoring(writer)
    with Progress("contamination", len(settings.tasks), "tasks", is_main=True) as progress:
        for task in settings.tasks:
            texts = contamination_texts(task, inputs.mirror)
            result = neighbour_test(
                model,
                writer,
                texts,
                examples=settings.examples,
                neighbours=settings.neighbours,
                seed=settings.seed,
                batch_tokens=settings.batch_tokens,
            )
            low, high = result.interval
            name = f"contamination/{task}"
            log({f"{name}/neighbour": result.share})
            log({f"{name}/neighbour_low": low, f"{name}/neighbour_high": high})
            draw_histogram(
                out / NOTES / f"neighbours_{task}.png",
                {"": result.scores},
                [tenth / 10 for tenth in range(11)],
                title=task,
                x="share of neighbours with a lower loss than the text",
                y="texts",
            )
            tested = [texts[example] for example in result.examples]
            unseen = contamination_texts(task, inputs.mirror, reference=True)
            others = [
                unseen[number] for number in drawn(unseen, min(len(unseen), settings.examples), settings.seed)
            ]
            ours = min_k_scores(model, tested, settings.k, batch_tokens=settings.batch_tokens)
            theirs = (
                min_k_scores(model, others, settings.k, batch_tokens=settings.batch_tokens)
                if others
                else None
            )
            compared = compare_min_k(ours, theirs) if theirs else []
            for found in compared:
                # The first k has the plain name: it is the one that runs are compared by.
                suffix = "" if found.k == settings.k[0] else f"_{100 * found.k:g}"
                log({f"{name}/{found.method}{suffix}": found.auroc})
            content: dict[str, Any] = {
                "task": task,
                "verdicts": [result.verdict(), *(found.verdict() for found in compared)],
                "texts": tested,
                **asdict(result),
                "min_k": [asdict(found) for found in compared],
                "tested": asdict(ours),
                "unseen": asdict(theirs) if theirs else None,
            }
            text = json.dumps(content, indent=1, ensure_ascii=False)
            (out / f"{task}.json").write_text(text + "\n", encoding="utf-8")
            _min_k_histograms(task, ours, theirs, settings.k[0], out / NOTES)
            progress.advance(1, f"{task} {result.share:.2f}")


def verdicts(folder: Path) -> list[str]:
    """The lines that a test left in its folder: each benchmark's verdicts."""
    files = sorted(file for file in folder.glob("*.json") if file.name != "manifest.json")
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [f"{content['task']}: {line}" for content in contents for line in content["verdicts"]]


def _min_k_histograms(task: str, ours: MinKScores, theirs: MinKScores | None, k: float, folder: Path) -> None:
    for method, title in METHODS.items():
        groups = {"tested": getattr(ours, method)[k]}
        if theirs:
            groups["reference split"] = getattr(theirs, method)[k]
        file, scores = folder / f"{method}_{task}.png", f"{title} at k = {k:g}"
        draw_histogram(file, groups, 20, title=task, x=scores, y="texts")
