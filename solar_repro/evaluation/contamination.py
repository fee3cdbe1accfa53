"""Was a model trained on a benchmark? The neighbour test of Table 9, Min-K% Prob and Min-K%++.

The neighbour test is that of swj0419/detect-pretrain-code-contamination: if a target model finds a text less
surprising than nearly all rewritings of its second part by a reference model, it has likely seen the text.
Min-K% Prob is of Shi et al. 2023 (arXiv 2310.16789), Min-K%++ of Zhang et al. 2024 (arXiv 2404.02936).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.errors import UserError
from solar_repro.evaluation.load import load_model
from solar_repro.evaluation.statistics import binomial_interval
from solar_repro.progress import Progress

if TYPE_CHECKING:
    import numpy as np

LIKELY = 0.9
"""Table 9: a result above this means likely contaminated."""
BATCH_TOKENS = 8192
EXAMPLES_AT_ONCE = 8


@dataclass(frozen=True)
class NeighbourResult:
    """Result of the neighbour test: `share` of texts scored below `threshold`, and what each text gave."""

    share: float
    interval: tuple[float, float]
    """95 % binomial interval of the share (Wilson): about ± 0.1 with 100 examples, narrower near 0 and 1."""
    threshold: float
    examples: tuple[int, ...]
    """Which of the texts were drawn, in drawing order."""
    scores: tuple[float, ...]
    """Per example the share of neighbours with a lower loss under the target than the text itself."""
    losses: tuple[float, ...]
    """Mean next-token loss of each example under the target, in nats."""
    neighbour_losses: tuple[tuple[float, ...], ...]

    def verdict(self) -> str:
        """The result as one line."""
        low, high = self.interval
        likely = "likely contaminated" if self.share > LIKELY else "no sign of contamination"
        return (
            f"{self.share:.2f} of {len(self.scores)} texts score below {self.threshold} "
            f"(95 % interval {low:.2f} to {high:.2f}; above {LIKELY} is likely contaminated): {likely}"
        )


@dataclass(frozen=True)
class MinKScores:
    """Per text, for each k, the mean over the lowest k share of its tokens; higher means more likely seen."""

    min_k: dict[float, tuple[float, ...]]
    """Of log-probabilities (nats): Min-K% Prob."""
    min_k_pp: dict[float, tuple[float, ...]]
    """Of log-probabilities standardised over the vocabulary at each position: Min-K%++."""


def neighbour_test(
    target: Path | str,
    reference: Path | str,
    texts: Sequence[str],
    *,
    examples: int = 100,
    neighbours: int = 100,
    ratio: float = 0.4,
    seed: int = 0,
    top_k: int = 50,
    temperature: float = 1.0,
    threshold: float = 0.1,
    batch_tokens: int = BATCH_TOKENS,
    device: str = "cpu",
    dtype: str = "float32",
) -> NeighbourResult:
    """Table 9's test of `target` with `reference` writing the neighbours (both folders or hub ids).

    The texts are shuffled with `seed` and the first `examples` of at least two words taken. Of a text of w
    words, the first p = ceil(ratio · w) are the prompt; the reference continues it `neighbours` times by at
    most w - p tokens. Both the text and its neighbours are scored whole, cut at the target's context.
    Sampling is seeded per text, so that neither batching nor the number of examples changes it.

    Raises UserError for settings out of range and where too few texts are given.
    """
    if not 0 < ratio < 1 or neighbours < 1 or examples < 1 or top_k < 1 or temperature <= 0:
        raise UserError(
            f"neighbour test: ratio {ratio} must lie between 0 and 1; examples, neighbours, top_k and "
            "temperature must be positive"
        )
    order = [index for index, text in enumerate(texts) if len(text.split()) > 1]
    random.Random(seed).shuffle(order)
    chosen = order[:examples]
    if len(chosen) < examples:
        raise UserError(
            f"neighbour test: {len(chosen)} texts of two words or more for examples={examples}; lower it"
        )
    target_model, target_tokenizer = load_model(target, device=device, dtype=dtype)
    writer, writer_tokenizer = (
        (target_model, target_tokenizer)
        if str(reference) == str(target)
        else load_model(reference, device=device, dtype=dtype)
    )
    from solar_repro.evaluation.neighbours import sequence_losses, write_neighbours

    losses: list[float] = []
    neighbour_losses: list[tuple[float, ...]] = []
    with Progress("neighbour test", len(chosen), "texts") as progress:
        for start in range(0, len(chosen), EXAMPLES_AT_ONCE):
            part = chosen[start : start + EXAMPLES_AT_ONCE]
            written = write_neighbours(
                writer,
                writer_tokenizer,
                [texts[index] for index in part],
                seeds=[(seed, index) for index in part],
                copies=neighbours,
                ratio=ratio,
                top_k=top_k,
                temperature=temperature,
                batch_tokens=batch_tokens,
            )
            together = [
                text for index, own in zip(part, written, strict=True) for text in (texts[index], *own)
            ]
            found = sequence_losses(target_model, target_tokenizer, together, batch_tokens=batch_tokens)
            for number in range(len(part)):
                own = found[number * (neighbours + 1) : (number + 1) * (neighbours + 1)]
                losses.append(own[0])
                neighbour_losses.append(tuple(own[1:]))
            progress.advance(len(part))
    scores = [
        sum(loss < own for loss in others) / neighbours
        for own, others in zip(losses, neighbour_losses, strict=True)
    ]
    below = sum(score < threshold for score in scores)
    return NeighbourResult(
        share=below / len(scores),
        interval=binomial_interval(below, len(scores)),
        threshold=threshold,
        examples=tuple(chosen),
        scores=tuple(scores),
        losses=tuple(losses),
        neighbour_losses=tuple(neighbour_losses),
    )


def min_k_scores(
    model: Path | str,
    texts: Sequence[str],
    k: Sequence[float] = (0.2,),
    *,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    device: str = "cpu",
    dtype: str = "float32",
) -> MinKScores:
    """Min-K% Prob and Min-K%++ of each text under a model (folder or hub id), for each share k in (0, 1].

    Tokens behind a BOS, cut at `max_length` (default: the model's context). UserError for k out of range or
    a text without tokens.
    """
    if not k or not all(0 < share <= 1 for share in k):
        raise UserError(f"min-k: k={list(k)} must be shares between 0 and 1, such as 0.2")
    empty = [index for index, text in enumerate(texts) if not text.strip()]
    if empty or not texts:
        raise UserError(f"min-k: text {empty[0] if empty else 0} is empty; leave it out")
    from solar_repro.evaluation.neighbours import context_length
    from solar_repro.evaluation.token_scores import encode_with_bos, token_scores

    loaded, tokenizer = load_model(model, device=device, dtype=dtype)
    sequences = encode_with_bos(tokenizer, texts, max_length or context_length(loaded))
    scores = token_scores(loaded, sequences, batch_tokens=batch_tokens, standardise=True)
    return MinKScores(
        {share: tuple(lowest_mean(score.log_probs, share) for score in scores) for share in k},
        {share: tuple(lowest_mean(score.z_scores, share) for score in scores) for share in k},
    )


def lowest_mean(values: "np.ndarray", share: float) -> float:
    """Mean of the lowest `share` of the values, of one at least."""
    count = max(1, math.floor(len(values) * share))
    return math.fsum(sorted(values.tolist())[:count]) / count
