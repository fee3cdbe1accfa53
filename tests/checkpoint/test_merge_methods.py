"""The arithmetic of merging against NumPy in float64, written from the papers' formulas."""

import math

import numpy as np
import pytest
import torch

from solar_repro.checkpoint.merge_methods import (
    TensorRecipe,
    TensorStatistics,
    close_histograms,
    cosine,
    effective_weights,
    histograms,
    inner_products,
    merge_block,
    slerp_weights,
)


def recipe(method: str, weights: tuple[float, ...] = (0.3, 0.7), **changes: float) -> TensorRecipe:
    settings = {"t": 0.5, "density": 0.4, "scale": 1.0, "seed": 0, **changes}
    return TensorRecipe(method, weights, **settings)  # type: ignore[arg-type]


def test_slerp_follows_the_arc() -> None:
    for angle in (0.2, 1.0, 2.5):
        a, b = np.array([1.0, 0.0]), np.array([math.cos(angle), math.sin(angle)])
        for t in (0.0, 0.25, 0.5, 1.0):
            x, y = slerp_weights(math.cos(angle), t)
            assert x * a + y * b == pytest.approx([math.cos(t * angle), math.sin(t * angle)])


@pytest.mark.parametrize("cos", [None, 0.9996, -0.9996, 1.0])
def test_slerp_is_linear_where_the_angle_tells_nothing(cos: float | None) -> None:
    assert slerp_weights(cos, 0.3) == (0.7, 0.3)


def test_cosine() -> None:
    a, b = torch.randn(1000), torch.randn(1000)
    expected = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0).item()
    assert cosine(inner_products([a, b]), 0, 1) == pytest.approx(expected, abs=1e-6)
    assert cosine(inner_products([a, torch.zeros(1000)]), 0, 1) is None
    assert cosine(inner_products([a, 3 * a]), 0, 1) == pytest.approx(1)


def thresholds(deltas: list[torch.Tensor], density: float, blocks: int = 3) -> list[float]:
    findings = TensorStatistics()
    for step in (0, 1):
        counted = [
            histograms(findings, step, parts)
            for parts in zip(*(d.chunk(blocks) for d in deltas), strict=True)
        ]
        summed = [sum(of_parent) for of_parent in zip(*counted, strict=True)]
        close_histograms(findings, step, summed, density, deltas[0].numel())
    return findings.thresholds


@pytest.mark.parametrize("density", [1e-9, 0.01, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("numbers", ["normal", "tied", "bfloat16", "tiny"])
def test_thresholds_are_the_kth_largest_magnitudes(density: float, numbers: str) -> None:
    torch.manual_seed(0)
    values = [torch.randn(4001), torch.randn(4001) * 1e-3]
    if numbers == "tied":
        values = [v.mul(4).round() for v in values]
    elif numbers == "bfloat16":
        values = [v.bfloat16().float() for v in values]
    elif numbers == "tiny":
        values = [v * 1e-41 for v in values]
    k = max(1, int(density * 4001))
    expected = [np.sort(np.abs(v.numpy()))[::-1][k - 1] for v in values]
    assert thresholds(values, density) == expected


def numpy_ties(deltas: list[np.ndarray], weights: list[float], density: float) -> np.ndarray:
    trimmed = []
    for delta in deltas:
        kept = np.sort(np.abs(delta))[::-1][max(1, int(density * delta.size)) - 1]
        trimmed.append(np.where(np.abs(delta) >= kept, delta, 0.0))
    merged = np.zeros_like(deltas[0])
    for i in range(merged.size):
        sign = np.sign(sum(w * d[i] for w, d in zip(weights, trimmed, strict=True)))
        agreeing = [(w, d[i]) for w, d in zip(weights, trimmed, strict=True) if d[i] * sign > 0]
        if agreeing:
            merged[i] = sum(w * d for w, d in agreeing) / sum(w for w, _ in agreeing)
    return merged


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.2, 0.5, 1.3)])
def test_ties(weights: tuple[float, ...]) -> None:
    generator = np.random.default_rng(0)
    base, *parents = generator.normal(size=(4, 500)).astype(np.float32)
    deltas = [torch.from_numpy(p - base) for p in parents]
    found = TensorStatistics(thresholds=thresholds(deltas, 0.4))
    made = merge_block(
        recipe("ties", weights, scale=0.8),
        found,
        "w",
        0,
        [torch.from_numpy(p.copy()) for p in parents],
        torch.from_numpy(base),
    )
    expected = base + 0.8 * numpy_ties([d.numpy().astype(np.float64) for d in deltas], list(weights), 0.4)
    assert made.numpy() == pytest.approx(expected, abs=1e-6)


def test_task_arithmetic() -> None:
    base, a, b = torch.randn(3, 100, dtype=torch.float64)
    made = merge_block(
        recipe("task_arithmetic", scale=2.0), TensorStatistics(), "w", 0, [a.clone(), b.clone()], base
    )
    torch.testing.assert_close(made, base + 2 * (0.3 * (a - base) + 0.7 * (b - base)))
    assert effective_weights(recipe("task_arithmetic", scale=2.0), TensorStatistics()) == pytest.approx(
        (0.6, 1.4, -1.0)
    )


def dare(seed: int, name: str = "w", block: int = 0, density: float = 0.4) -> torch.Tensor:
    """Two task vectors of ones."""
    base = torch.zeros(20_000)
    return merge_block(
        recipe("dare", seed=seed, density=density),
        TensorStatistics(),
        name,
        block,
        [base + 1, base + 1],
        base,
    )


def test_dare_drops_and_rescales() -> None:
    merged = dare(seed=1)
    values, counts = merged.unique(return_counts=True)
    assert values.tolist() == pytest.approx([0, 0.3 / 0.4, 0.7 / 0.4, 1 / 0.4])
    shares = [0.6 * 0.6, 0.4 * 0.6, 0.4 * 0.6, 0.4 * 0.4]
    for share, count in zip(shares, counts.tolist(), strict=True):  # five standard deviations
        assert abs(count - 20_000 * share) < 5 * math.sqrt(20_000 * share * (1 - share))
    assert torch.equal(dare(seed=1, density=1.0), torch.ones(20_000))


def test_dare_draws_from_seed_tensor_and_block_alone() -> None:
    assert torch.equal(dare(seed=1), dare(seed=1))
    for other in (dare(seed=2), dare(seed=1, name="v"), dare(seed=1, block=1)):
        assert not torch.equal(dare(seed=1), other)
