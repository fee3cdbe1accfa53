"""The study of a base's layer maps before any training: which m of depth up-scaling to take (Sec. 2)."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from benchmarks.studies import Study
from benchmarks.tables import count
from solar_repro.h6.compare_items import Items, difference, read_losses
from solar_repro.stages.untrained import BASE, MAPS_FILE, losses_file


def untrained_study(folder: Path, corpus: str) -> Study:
    """Compare the held-out loss of every layer map before any training with the base's, paired by text.

    `folder` is the result of stage `untrained`.
    """
    found = json.loads((folder / MAPS_FILE).read_text(encoding="utf-8"))["maps"]
    items = {row["map"]: read_losses([folder / losses_file(row["map"])]) for row in found}
    rows, bars = [], {}
    for row in found:
        against = difference(items[BASE], items[row["map"]])
        low, high = against.interval()
        name = row["map"].replace("dus:", "m = ")
        rows.append(
            {
                "map": name,
                "layers": row["layers"],
                "parameters": count(row["parameters"]),
                "layer_distance": "" if row["layer_distance"] is None else row["layer_distance"],
                "angular_distance": "" if row["angular_distance"] is None else row["angular_distance"],
                "loss": row["loss"],
                "loss_above_base": against.value,
                "loss_low": low,
                "loss_high": high,
            }
        )
        bars[name] = (against.value, (high - low) / 2)
    texts = len(items[BASE].names)
    tokens = int(
        sum(pair[0] for pair in json.loads((folder / losses_file(BASE)).read_text(encoding="utf-8")))
    )
    verdict = f"{texts} texts of {corpus}, {tokens:,} predicted tokens. {_told_of_maps(found, items)}"
    return Study("untrained", rows, bars, "held-out loss above the base's (nats per token)", verdict)


def _told_of_maps(found: Sequence[Mapping[str, Any]], items: Mapping[str, Items]) -> str:
    """Say how depth up-scaling compares with repetition, and over m; and what the distance foretells."""
    swept = [row for row in found if row["map"].startswith("dus:")]
    layers = found[0]["layers"]
    told = []
    paper = min(swept, key=lambda row: abs(int(row["map"][4:]) - layers / 4))
    low, high = difference(items["repeat"], items[paper["map"]]).interval()
    verdict = "reproduced" if high < 0 else "not reproduced" if low >= 0 else "undecided"
    told.append(
        f"Claim C2 (right after scaling, the loss is lower than after repeating all layers) at the paper's "
        f"share m = n/4, here m = {paper['map'][4:]}: {_interval(items['repeat'], items[paper['map']])}, "
        f"{verdict}."
    )
    steps = list(pairwise(sorted(swept, key=lambda row: int(row["map"][4:]))))
    if steps:
        deeper, safe = max(steps, key=lambda pair: pair[0]["loss"] - pair[1]["loss"])
        pair = items[safe["map"]], items[deeper["map"]]
        told.append(
            f"From one m to the next, the loss rises most from m = {safe['map'][4:]} ({safe['loss']:.3f}) to "
            f"m = {deeper['map'][4:]} ({deeper['loss']:.3f}): {_interval(*pair)}. So m = {safe['map'][4:]}, "
            f"with {safe['layers']} layers, is the deepest model on the safe side of that step."
            if difference(*pair).interval()[0] > 0
            else "No step between neighbouring m is larger than chance allows."
        )
    if len({row["angular_distance"] for row in swept}) > 2:
        seams = [*swept, _row(found, "repeat")]
        distances, losses = zip(*((row["angular_distance"], row["loss"]) for row in seams), strict=True)
        rank = spearmanr(distances, losses).statistic
        told.append(
            f"The angular distance across the seam and the loss have a rank correlation of {rank:.2f} "
            f"(Spearman, {len(seams)} maps of one seam)."
        )
    return " ".join(told)


def _interval(first: Items, second: Items) -> str:
    """Write the second loss minus the first, with its 95 % interval over texts."""
    found = difference(first, second)
    low, high = found.interval()
    return f"{found.value:+.3f} nats per token ({low:+.3f} … {high:+.3f})"


def _row(found: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    return next(row for row in found if row["map"] == kind)
