"""Puts results of claims into words: what a part says, what it lacks, and all claims in one paragraph."""

import math
from collections.abc import Sequence
from statistics import median

from benchmarks.paper.claims import Claim, Figure, Part
from benchmarks.power import MOST, POWER, Missing, missing, smallest_effect
from benchmarks.verdicts import CONFIDENCE, PartResult, Result, margin
from solar_repro.paper.benchmarks import H6_NAMES

EXPECTED = {
    "more": "is more than",
    "less": "is less than",
    "not less": "is not less than",
    "not more": "is not more than",
    "same": "is the same as",
}


def label(side: Figure | float) -> str:
    """Return a figure's name for a reader."""
    if not isinstance(side, Figure):
        return f"{side:g} %"
    task = side.column.removeprefix("contamination/")
    return f"{side.variant} {task}" if task == side.column else f"share of {task} below 0.1"


def says(part: Part) -> str:
    """Return what a part says, as a sentence without its full stop."""
    return f"{label(part.figure)} {EXPECTED[part.expected]} {label(part.other)}"


def digits(column: str) -> int:
    """Return how many digits behind the point a column's differences are shown with."""
    return 4 if column == "loss" else 2


def unit(column: str) -> str:
    """Return the unit of a column's differences."""
    return "nats per token" if column == "loss" else "points"


def allowed(part: Part) -> str:
    """Return the boundary of a part, in its unit: the margin where its sentence allows for one, else 0."""
    small = margin(part.figure.column)
    return "0" if part.expected in ("more", "less") else f"{'±' if part.expected == 'same' else ''}{small:g}"


def needed(lack: Missing) -> str:
    """Say what would decide a part: a total of items or of seeds, with their multiple."""
    ways = []
    if lack.items is not None and lack.times is not None:
        ways.append(f"{_rounded(lack.items)} items (× {_factor(lack.times)})")
    if lack.seeds is not None:
        ways.append(f"{lack.seeds:,} seeds")
    if lack.both is not None:
        ways.append(f"{_factor(lack.both)} times the items and the seeds")
    return " or ".join(ways) or f"over {MOST:,} times as many"


def method() -> str:
    """Explain how verdicts are reached and what the smallest effect is."""
    points, nats = margin("H6"), margin("loss")
    return (
        f"A claim is reproduced when the {CONFIDENCE:.0%} interval of every part lies where the claim says, "
        f"for which a margin of {points:g} point (losses: {nats:g} nats per token) is added where a part "
        'says "not less", "not more" or "the same". It is not reproduced when the interval of any part lies '
        'wholly on the wrong side of zero (of the margin, if it says "the same"): a small loss that is '
        "certain is a loss. It is undecided otherwise. Differences are paired by item and, where there are "
        "several, by seed of training. The smallest effect told is the distance from the boundary at which "
        f"{POWER:.0%} of such runs reach a verdict: about 1.4 times the half-width of the interval. What "
        "would decide a part is computed for the difference and the spread that were seen. It counts all "
        "items of the part: multiply each of evaluate.limits by the factor."
    )


def decider(claim: Claim, scale: str) -> str:
    """Say at which scale to judge a claim that the embedded world, at this scale, cannot show, or nothing."""
    if scale not in ("check", "smoke") or claim.judged_at == "smoke":
        return ""
    return f"the embedded base is too small for this claim: judge it at scale {claim.judged_at}"


def summary(results: Sequence[Result]) -> str:
    """Say in one paragraph what these runs reproduce, what they contradict, what they cannot tell and why."""
    judged = [result for result in results if result.verdict != "no runs"]
    if not judged:
        return "There are no runs yet, so none of the paper's claims is judged."
    found = {
        verdict: [result for result in judged if result.verdict == verdict]
        for verdict in ("reproduced", "not reproduced", "undecided")
    }
    sentences = [
        f"Of the paper's {len(judged)} claims, these runs reproduce "
        f"{_listed([f'{one.claim.name} ({one.claim.title})' for one in found['reproduced']])}.",
        f"They contradict {_listed([_contradicted(one) for one in found['not reproduced']])}.",
        *(_undecided(found["undecided"]) if found["undecided"] else ["They decide every one."]),
    ]
    if without := len(results) - len(judged):
        sentences.append(f"For {without} more, models have no runs.")
    return " ".join(sentences)


def _listed(texts: Sequence[str]) -> str:
    return f"{len(texts)}: {'; '.join(texts)}" if texts else "none"


def _contradicted(result: Result) -> str:
    """Name the claim and its first part that lies elsewhere."""
    first = next(found for found in result.parts if found.verdict == "not reproduced")
    places = digits(first.part.figure.column)
    low, high = first.difference.interval(CONFIDENCE)
    text = (
        f"{result.claim.name} ({result.claim.title}), for {label(first.part.figure)} minus "
        f"{label(first.part.other)} is {first.difference.value:+.{places}f} {unit(first.part.figure.column)} "
        f"({low:+.{places}f} … {high:+.{places}f})"
    )
    return f"{text}, and the paper's own tables contradict it too" if result.claim.contradicted else text


def _undecided(results: Sequence[Result]) -> list[str]:
    """Say which claims these runs cannot tell, why, and which of them need the fewest items."""
    names = ", ".join(result.claim.name for result in results)
    parts = [found for result in results for found in result.parts if found.verdict == "undecided"]
    sentences = [f"They cannot tell {len(results)}: {names}."]
    if told := _told(parts):
        sentences.append(f"The reason is {_reason(parts)}: {told}.")
    times = {}
    for result in results:
        lacks = [lack.times for lack in missing(result) if lack is not None]
        if lacks and None not in lacks:
            times[result.claim.name] = max(lacks)
    nearest = sorted(times, key=times.__getitem__)[:3]
    if nearest:
        listed = ", ".join(f"{name} ({_factor(times[name])} times as many)" for name in nearest)
        sentences.append(
            f"If the differences and the spread stay as seen, more items would first decide {listed}."
        )
    if rest := [result.claim.name for result in results if result.claim.name not in times]:
        sentences.append(f"More items alone would not decide {', '.join(rest)}.")
    return sentences


def _told(parts: Sequence[PartResult]) -> str:
    """Set the smallest effects that these runs tell beside the paper's differences, as medians in points."""
    found = [part for part in parts if part.part.figure.column in ("H6", *H6_NAMES)]
    groups: dict[str, list[float]] = {"on one benchmark": [], "on H6": []}
    for part in found:
        where = "on H6" if part.part.figure.column == "H6" else "on one benchmark"
        groups[where].append(smallest_effect(part.difference))
    told = [f"{median(effects):.1f} points {where}" for where, effects in groups.items() if effects]
    papers = [abs(part.paper) for part in found if part.paper is not None]
    if not told or not papers:
        return ""
    return (
        f"the smallest effect that they tell is {' and '.join(told)}, and the paper's differences there are "
        f"{median(papers):.1f} points (medians)"
    )


def _reason(parts: Sequence[PartResult]) -> str:
    """Say whether most of the spread of these parts comes from items or from seeds."""
    found = [one.difference for one in parts]
    seeds = len(found[0].seed_values)
    if sum(one.seed_variance > one.item_variance for one in found) * 2 > len(found):
        return f"that the {seeds} seeds differ from each other"
    return "that the benchmarks have few items"


def _factor(number: float) -> str:
    """Write a multiple with two significant digits, rounded up."""
    return _rounded(number) if number >= 10 else f"{math.ceil(10 * number - 1e-9) / 10:.1f}"


def _rounded(number: float) -> str:
    """Write a number with two significant digits, rounded up: `4,300` for 4,217."""
    step = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / step) * step:,}"
