"""The noise scale on gradients whose true mean and covariance are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sheepfold_server.dashboard.noise_scale import STEPS_MIN, Estimate, NoiseScale, estimate

DIMENSIONS, SLOT_SAMPLES, SLOTS = 200, 32, 8


def norms_of_step(
    rng: np.random.Generator, true: np.ndarray, deviations: np.ndarray, slots: int = SLOTS
) -> tuple[list[float], float]:
    """Norms of the slots' mean gradients and of the step's; a slot's mean has the covariance Sigma / B."""
    noise = rng.normal(size=(slots, DIMENSIONS)) * deviations / math.sqrt(SLOT_SAMPLES)
    contributions = true + noise
    return [float(np.linalg.norm(g)) for g in contributions], float(
        np.linalg.norm(contributions.mean(axis=0))
    )


@pytest.mark.parametrize("signal", [0.02, 0.1, 1.0])
def test_noise_scale_of_known_covariance_is_its_trace_over_the_square_of_the_mean(signal: float) -> None:
    rng = np.random.default_rng(7)
    true = rng.normal(size=DIMENSIONS) * signal
    deviations = rng.uniform(0.5, 2.0, DIMENSIONS)
    scale = NoiseScale(smoothing=0.998)
    for _ in range(3_000):
        norms, mean_norm = norms_of_step(rng, true, deviations)
        found = estimate(norms, SLOT_SAMPLES, mean_norm)
        assert found is not None
        scale.add(found)
    expected = (deviations**2).sum() / (true**2).sum()
    assert scale.samples() == pytest.approx(expected, rel=0.15)


def test_both_estimates_are_unbiased() -> None:
    """Their mean over many steps is the truth, for the fewest slots there can be."""
    rng = np.random.default_rng(3)
    true, deviations = np.full(DIMENSIONS, 0.1), np.linspace(0.5, 1.5, DIMENSIONS)
    found = []
    for _ in range(4_000):
        norms, mean_norm = norms_of_step(rng, true, deviations, slots=2)
        found.append(estimate(norms, SLOT_SAMPLES, mean_norm))
    squares, traces = zip(*((e.gradient_square, e.variance_trace) for e in found if e), strict=True)
    assert np.mean(squares) == pytest.approx((true**2).sum(), rel=0.05)
    assert np.mean(traces) == pytest.approx((deviations**2).sum(), rel=0.05)


def test_equal_contributions_have_no_noise() -> None:
    assert estimate([3.0, 3.0, 3.0], 32, 3.0) == Estimate(9.0, 0.0)


def test_contributions_that_cancel_have_nothing_but_noise() -> None:
    found = estimate([1.0, 1.0], 10, 0.0)
    assert found is not None
    assert found.gradient_square == -1.0
    assert found.variance_trace == pytest.approx(20.0)


@pytest.mark.parametrize("norms", [[], [1.0]])
def test_one_contribution_tells_nothing_about_noise(norms: list[float]) -> None:
    assert estimate(norms, 32, 1.0) is None


def test_ratio_is_told_only_after_enough_steps_with_a_gradient_above_its_noise() -> None:
    scale = NoiseScale()
    for _ in range(STEPS_MIN - 1):
        scale.add(Estimate(2.0, 100.0))
    assert scale.samples() is None
    scale.add(Estimate(2.0, 100.0))
    assert scale.samples() == pytest.approx(50.0)
    for _ in range(500):
        scale.add(Estimate(-1.0, 100.0))
    assert scale.samples() is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_step_that_is_not_finite_leaves_the_averages_as_they_were(bad: float) -> None:
    scale = NoiseScale()
    for _ in range(STEPS_MIN):
        scale.add(Estimate(2.0, 100.0))
    scale.add(Estimate(bad, 100.0))
    scale.add(Estimate(2.0, bad))
    assert scale.samples() == pytest.approx(50.0)
