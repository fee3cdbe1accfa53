"""The arithmetic of merging, block by block: average, SLERP, task arithmetic, TIES, DARE.

A block is the same range of elements of every parent (and of the base, for methods on task vectors), widened
to the accumulation dtype. What a method must know about a whole tensor is gathered in earlier passes over it.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from solar_repro.checkpoint.merge_options import Method

# These are passes over a tensor before the one that merges it. SLERP needs the angle. TIES needs the k-th
# largest magnitude, found in two steps from the upper 16 and lower 15 bits of the float32 magnitude.
EARLIER_PASSES: dict[Method, int] = {"average": 0, "slerp": 1, "ties": 2, "dare": 0, "task_arithmetic": 0}
SLERP_LINEAR_ABOVE = 0.9995  # |cos| beyond which SLERP is linear
_LOW_BITS = 15


@dataclass(frozen=True)
class TensorRecipe:
    """How one tensor is merged: `weights` has one number per parent; `density` is that of TIES and DARE."""

    method: Method
    weights: tuple[float, ...]
    t: float
    density: float
    scale: float
    seed: int


@dataclass
class TensorStatistics:
    """What earlier passes found in one tensor: inner products of the parents, and thresholds of TIES."""

    gram: dict[tuple[int, int], float] = field(default_factory=dict)
    bins: list[int] = field(default_factory=list)  # TIES: the upper bits of each parent's threshold
    below: list[int] = field(default_factory=list)  # TIES: how many of that bin are kept
    thresholds: list[float] = field(default_factory=list)  # TIES: smallest magnitude kept, per parent


def inner_products(parents: Sequence[Tensor]) -> dict[tuple[int, int], float]:
    """Return the dot products of all pairs of parents, each with itself included."""
    pairs = combinations_with_replacement(range(len(parents)), 2)
    return {(i, j): torch.dot(parents[i], parents[j]).item() for i, j in pairs}


def cosine(gram: dict[tuple[int, int], float], i: int, j: int) -> float | None:
    """Return the cosine between parents i < j, None if one of them is zero."""
    norms = math.sqrt(gram[i, i]) * math.sqrt(gram[j, j])
    return max(-1.0, min(1.0, gram[i, j] / norms)) if norms > 0 else None


def slerp_weights(cos: float | None, t: float) -> tuple[float, float]:
    """Return the weights of the two parents, which are not normalised.

    Linear if the angle is tiny or unknown.

    The formula is Shoemake's (1985), as mergekit applies it to checkpoints.
    """
    if cos is None or abs(cos) > SLERP_LINEAR_ABOVE:
        return 1.0 - t, t
    angle = math.acos(cos)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def effective_weights(recipe: TensorRecipe, findings: TensorStatistics) -> tuple[float, ...]:
    """Return the factor of each parent, then of the base if there is one.

    TIES chooses element by element, so its factors are those before trimming.
    """
    if recipe.method == "average":
        return recipe.weights
    if recipe.method == "slerp":
        return slerp_weights(cosine(findings.gram, 0, 1), recipe.t)
    if recipe.method == "ties":
        return recipe.weights
    scaled = tuple(recipe.scale * weight for weight in recipe.weights)
    return (*scaled, 1.0 - math.fsum(scaled))


def merge_block(
    recipe: TensorRecipe,
    findings: TensorStatistics,
    name: str,
    number: int,
    parents: list[Tensor],
    base: Tensor | None,
) -> Tensor:
    """Merge block `number` of tensor `name`; overwrites `parents` and returns the result in one of them."""
    if base is None:
        return _weighted_sum(parents, effective_weights(recipe, findings))
    for parent in parents:
        parent.sub_(base)
    if recipe.method == "ties":
        merged = _ties(parents, recipe.weights, findings.thresholds)
    else:
        if recipe.method == "dare":
            for parent_number, delta in enumerate(parents):
                _drop_and_rescale(delta, recipe, f"{name}/{parent_number}/{number}")
        merged = _weighted_sum(parents, recipe.weights)
    return merged.mul_(recipe.scale).add_(base)


def _weighted_sum(parents: list[Tensor], weights: Sequence[float]) -> Tensor:
    total = parents[0].mul_(weights[0])
    for parent, weight in zip(parents[1:], weights[1:], strict=True):
        total.add_(parent, alpha=weight)
    return total


def _drop_and_rescale(delta: Tensor, recipe: TensorRecipe, key: str) -> None:
    """DARE (arXiv 2311.03099): keep each element with probability `density`, divide what is kept by it.

    The draw depends on seed, tensor, parent and block alone, not on threads or chunk sizes.
    """
    digest = hashlib.sha256(f"{recipe.seed}/{key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    kept = torch.rand(delta.shape, generator=generator, dtype=torch.float32) < recipe.density
    delta.mul_(kept.to(delta)).div_(recipe.density)


def _ties(deltas: list[Tensor], weights: Sequence[float], thresholds: Sequence[float]) -> Tensor:
    """TIES (arXiv 2306.01708): trim, elect the sign of the larger total mass, mean of those that agree."""
    for delta, threshold in zip(deltas, thresholds, strict=True):
        delta.mul_(delta.abs().float() >= threshold)
    weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    elected = torch.stack(weighted).sum(0).sign_()
    total, mass = torch.zeros_like(elected), torch.zeros_like(elected)
    for part, delta, weight in zip(weighted, deltas, weights, strict=True):
        agrees = (delta.sign() * elected) > 0
        total.add_(part.mul_(agrees))
        mass.add_(agrees, alpha=weight)
    return total.div_(mass.where(mass != 0, 1.0))


def histograms(findings: TensorStatistics, step: int, deltas: Sequence[Tensor]) -> list[Tensor]:
    """Return a block's counts per parent for TIES: of upper bits, then of lower bits in one bin."""
    counted = []
    for number, delta in enumerate(deltas):
        bits = delta.abs().float().view(torch.int32)
        if step == 0:
            counted.append(torch.bincount(bits >> _LOW_BITS, minlength=1 << 16))
        else:
            inside = bits[(bits >> _LOW_BITS) == findings.bins[number]]
            counted.append(torch.bincount(inside & ((1 << _LOW_BITS) - 1), minlength=1 << _LOW_BITS))
    return counted


def close_histograms(
    findings: TensorStatistics, step: int, histogram: Sequence[Tensor], density: float, elements: int
) -> None:
    """Turn the counts of a TIES pass into the bin, then into the threshold: the k-th largest magnitude.

    k is density · elements, at least 1. All elements equal to the threshold are kept.
    """
    for number, counts in enumerate(histogram):
        wanted = max(1, int(density * elements)) if step == 0 else findings.below[number]
        from_top = counts.flip(0).cumsum(0)
        position = int(torch.searchsorted(from_top, wanted))
        found = len(counts) - 1 - position
        if step == 0:
            findings.bins.append(found)
            findings.below.append(wanted - (int(from_top[position - 1]) if position else 0))
        else:
            bits = torch.tensor((findings.bins[number] << _LOW_BITS) | found, dtype=torch.int32)
            findings.thresholds.append(bits.view(torch.float32).item())
