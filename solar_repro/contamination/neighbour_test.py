"""Was a model trained on a benchmark? The neighbour test of Table 9.

It is that of swj0419/detect-pretrain-code-contamination: if a target model finds a text less surprising than
nearly all rewritings of its second part by a reference model, it has likely seen the text.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from solar_repro.errors import UserError
from solar_repro.h6.statistics import binomial_interval
from solar_repro.terminal.progress import Progress

if TYPE_CHECKING:
    from solar_repro.checkpoint.load import Loaded

LIKELY = 0.9
"""Table 9: a result above this means likely contaminated."""
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
    """Numbers of the texts to test: those of two words or more, shuffled with `seed`, the first `examples`.

    Raises UserError where there are fewer.
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
    target: "Loaded",
    reference: "Loaded",
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
    """Table 9's test of `target` with `reference` writing the neighbours.

    The texts are `drawn`. Of a text of w words, the first p = ceil(ratio · w) are the prompt; the reference
    continues it `neighbours` times by at most w - p tokens. Both the text and its neighbours are scored
    whole, cut at the target's context. Sampling is seeded per text, so that neither batching nor the number
    of examples changes it.

    Raises UserError for settings out of range, where too few texts are given, and for a loss that is NaN
    (naming the text).
    """
    if not 0 < ratio < 1 or neighbours < 1 or examples < 1 or top_k < 1 or temperature <= 0:
        raise UserError(
            f"neighbour test: ratio {ratio} must lie between 0 and 1; examples, neighbours, top_k and "
            "temperature must be positive"
        )
    chosen = drawn(texts, examples, seed)
    from solar_repro.contamination.neighbours import sequence_losses, write_neighbours

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
