"""The neighbour test of Table 9: whether a model was trained on a benchmark.

It is that of swj0419/detect-pretrain-code-contamination. A reference model rewrites the second part of a text
many times. If a target model finds the text less surprising than nearly all of these neighbours, it has
likely seen the text.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from solar_repro.checkpoint.load import Loaded
from solar_repro.contamination.neighbours import sequence_losses, write_neighbours
from solar_repro.errors import UserError
from solar_repro.h6.statistics import binomial_interval
from solar_repro.terminal.progress import Progress

LIKELY = 0.9
"""A result above this means that contamination is likely (Table 9)."""
EXAMPLES_AT_ONCE = 8
"""Texts whose neighbours are written and scored together."""


@dataclass(frozen=True)
class NeighbourResult:
    """The share of texts that score below `threshold`, and the scores of each text."""

    share: float
    interval: tuple[float, float]
    """The 95 % binomial interval of the share (Wilson), about ± 0.1 with 100 examples."""
    threshold: float
    examples: tuple[int, ...]
    """The numbers of the texts that were drawn, in the order of drawing."""
    scores: tuple[float, ...]
    """For each example the share of its neighbours that have a lower loss under the target than the text."""
    losses: tuple[float, ...]
    """The loss of each example under the target, in nats per token."""
    neighbour_losses: tuple[tuple[float, ...], ...]
    """The losses of each example's neighbours under the target, in nats per token."""

    @property
    def flagged(self) -> bool:
        """Whether the target has likely seen the texts."""
        return self.share > LIKELY

    def verdict(self) -> str:
        """The result as one line."""
        low, high = self.interval
        likely = "likely contaminated" if self.flagged else "no sign of contamination"
        return (
            f"neighbour test: {self.share:.2f} of {len(self.scores)} texts score below {self.threshold} "
            f"(95 % interval {low:.2f} to {high:.2f}; above {LIKELY} is likely contaminated): {likely}"
        )


def drawn(texts: Sequence[str], examples: int, seed: int) -> tuple[int, ...]:
    """The numbers of `examples` texts to test, drawn with `seed` from those of two words or more.

    Raises UserError where there are fewer such texts.
    """
    order = [index for index, text in enumerate(texts) if len(text.split()) > 1]
    random.Random(seed).shuffle(order)
    if len(order) < examples:
        raise UserError(
            f"contamination: only {len(order)} texts have two words or more, but examples={examples}; "
            "lower it"
        )
    return tuple(order[:examples])


def neighbour_test(
    target: Loaded,
    reference: Loaded,
    texts: Sequence[str],
    *,
    examples: int = 100,
    neighbours: int = 100,
    ratio: float = 0.4,
    seed: int = 0,
    top_k: int = 50,
    temperature: float = 1.0,
    threshold: float = 0.1,
    batch_tokens: int,
) -> NeighbourResult:
    """Table 9's test of `target`, with neighbours that `reference` writes.

    The texts are `drawn`. Of a text of w words the first p = ceil(ratio · w) are the prompt, which the
    reference continues `neighbours` times by at most w - p tokens. The text and its neighbours are scored as
    a whole, cut to the target's context. Each text has a seed of its own, so that neither batching nor the
    number of examples changes its neighbours.

    Raises UserError for settings out of range, for too few texts, and for a loss that is NaN (it names the
    text).
    """
    if not 0 < ratio < 1 or neighbours < 1 or examples < 1 or top_k < 1 or temperature <= 0:
        raise UserError(
            f"neighbour test: ratio {ratio} must lie between 0 and 1; examples, neighbours, top_k and "
            "temperature must be positive"
        )
    chosen = drawn(texts, examples, seed)
    losses: list[float] = []
    neighbour_losses: list[tuple[float, ...]] = []
    with Progress("neighbour test", len(chosen), "texts") as progress:
        for start in range(0, len(chosen), EXAMPLES_AT_ONCE):
            part = chosen[start : start + EXAMPLES_AT_ONCE]
            written = write_neighbours(
                *reference,
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
            found = sequence_losses(*target, together, batch_tokens=batch_tokens)
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
        examples=chosen,
        scores=tuple(scores),
        losses=tuple(losses),
        neighbour_losses=tuple(neighbour_losses),
    )
