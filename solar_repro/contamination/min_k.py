"""Min-K% Prob (Shi et al. 2023, arXiv 2310.16789) and Min-K%++ (Zhang et al. 2024, arXiv 2404.02936)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from solar_repro.checkpoint.load import Loaded
from solar_repro.contamination.neighbours import refuse_nan
from solar_repro.errors import UserError
from solar_repro.h6.statistics import auroc, auroc_interval
from solar_repro.shared_prefix.token_scores import context_length, encode_with_bos, token_scores

METHODS = {"min_k": "Min-K% Prob", "min_k_pp": "Min-K%++"}


@dataclass(frozen=True)
class MinKScores:
    """By k, each text's mean over the lowest k share of its tokens; a higher one is likelier seen."""

    min_k: dict[float, tuple[float, ...]]
    """Means of log-probabilities (nats): Min-K% Prob."""
    min_k_pp: dict[float, tuple[float, ...]]
    """Means of log-probabilities that are standardised over the vocabulary at each position: Min-K%++."""


@dataclass(frozen=True)
class MinKResult:
    """How well the scores of one method tell the tested texts from those of a reference split."""

    method: str
    """`min_k` or `min_k_pp`."""
    k: float
    auroc: float
    """The chance that a tested text scores above one of the reference split; 0.5 means no difference."""
    interval: tuple[float, float]
    """The 95 % interval of the AUROC."""

    @property
    def flagged(self) -> bool:
        """Whether the tested texts were likely seen: the whole interval lies above 0.5."""
        return self.interval[0] > 0.5

    def verdict(self) -> str:
        """The result as one line."""
        low, high = self.interval
        return (
            f"{METHODS[self.method]} at k = {self.k:g}: AUROC {self.auroc:.2f} against the reference split "
            f"(95 % interval {low:.2f} to {high:.2f}; 0.5 means no difference): "
            f"{'likely contaminated' if self.flagged else 'no sign of contamination'}"
        )


def min_k_scores(
    model: Loaded,
    texts: Sequence[str],
    k: Sequence[float] = (0.2,),
    *,
    batch_tokens: int,
    max_length: int | None = None,
) -> MinKScores:
    """Min-K% Prob and Min-K%++ of each text under a model, for each share k in (0, 1].

    A text is scored behind a BOS and cut to `max_length` tokens; None cuts it to the model's context. Raises
    UserError for a k out of range, an empty text, and log-probabilities that are NaN (it names the text).
    """
    if not k or not all(0 < share <= 1 for share in k):
        raise UserError(f"min-k: k={list(k)} must be shares between 0 and 1, such as 0.2")
    empty = [index for index, text in enumerate(texts) if not text.strip()]
    if empty or not texts:
        raise UserError(f"min-k: text {empty[0] if empty else 0} is empty; leave it out")
    network, tokenizer = model
    sequences = encode_with_bos(tokenizer, texts, max_length or context_length(network))
    scores = token_scores(network, sequences, batch_tokens=batch_tokens, standardise=True)
    refuse_nan([float(score.log_probs.sum()) for score in scores], texts)
    return MinKScores(
        {share: tuple(lowest_mean(score.log_probs, share) for score in scores) for share in k},
        {share: tuple(lowest_mean(score.z_scores, share) for score in scores) for share in k},
    )


def lowest_mean(values: np.ndarray, share: float) -> float:
    """The mean of the lowest `share` of the values, of at least one value."""
    count = max(1, math.floor(len(values) * share))
    return math.fsum(sorted(values.tolist())[:count]) / count


def compare_min_k(tested: MinKScores, reference: MinKScores) -> list[MinKResult]:
    """For each method and k, the AUROC of the tested texts' scores against those of the reference split."""
    results = []
    for method in METHODS:
        ours, theirs = getattr(tested, method), getattr(reference, method)
        for k, scores in ours.items():
            area = auroc(scores, theirs[k])
            interval = auroc_interval(area, len(scores), len(theirs[k]))
            results.append(MinKResult(method, k, area, interval))
    return results
