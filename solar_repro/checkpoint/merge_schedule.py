"""The order in which the chunks of a merge are worked on, and what each chunk finds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event

import torch

from solar_repro.checkpoint.headers import TensorRange, element_count
from solar_repro.checkpoint.merge_methods import EARLIER_PASSES, TensorRecipe, TensorStatistics


@dataclass
class ChunkStatistics:
    """What one chunk adds to the statistics of its tensor."""

    gram: dict[tuple[int, int], float] = field(default_factory=dict)
    counts: list[torch.Tensor] = field(default_factory=list)

    def add_products(self, products: dict[tuple[int, int], float]) -> None:
        for pair, product in products.items():
            self.gram[pair] = self.gram.get(pair, 0.0) + product

    def add_counts(self, counts: list[torch.Tensor]) -> None:
        self.counts = (
            [old + new for old, new in zip(self.counts, counts, strict=True)] if self.counts else counts
        )


@dataclass
class TensorMerge:
    """One tensor of the output: its inputs (parents, then the base if there is one) and its place."""

    name: str
    inputs: tuple[TensorRange, ...]
    output: TensorRange
    recipe: TensorRecipe
    has_base: bool
    findings: TensorStatistics = field(default_factory=TensorStatistics)
    parts: dict[int, ChunkStatistics] = field(default_factory=dict)  # of the running pass, by chunk
    passes_done: list[Event] = field(default_factory=list)

    @property
    def elements(self) -> int:
        return element_count(self.output.shape)


@dataclass(frozen=True)
class ChunkTask:
    tensor: TensorMerge
    step: int  # number of the pass over the tensor
    chunk: int
    chunks: int  # number of chunks of the tensor
    start: int  # first element; `stop` is the one after the last
    stop: int


def schedule(tensors: Sequence[TensorMerge], chunk_elements: int) -> Iterator[ChunkTask]:
    """Yield each tensor's passes in order, a pass of one tensor after the previous pass of the next tensor.

    So a pass seldom waits for the end of the one before, and finds the bytes still in the page cache.
    """
    passes = EARLIER_PASSES[tensors[0].recipe.method] + 1
    for tensor in tensors:
        tensor.passes_done = [Event() for _ in range(passes)]
    for position in range(len(tensors) + passes - 1):
        for step in range(passes):
            if 0 <= position - step < len(tensors):
                tensor = tensors[position - step]
                starts = range(0, max(1, tensor.elements), chunk_elements)
                for chunk, start in enumerate(starts):
                    stop = min(start + chunk_elements, tensor.elements)
                    yield ChunkTask(tensor, step, chunk, len(starts), start, stop)
