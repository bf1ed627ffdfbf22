"""The gradient noise scale: how large a batch may be before more samples stop to help. Pure mathematics.

Source: McCandlish, Kaplan, Amodei et al. 2018, "An Empirical Model of Large-Batch Training",
arXiv:1812.06162, section 2.2 and appendix A.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sheepfold_wire.messages as m

SMOOTHING = 0.98
"""Decay of the two averages per step: about the newest 50 steps count."""
STEPS_MIN = 10
"""Steps before the ratio of the averages is told."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one step: unbiased, and so noisy that either may be negative.

    `gradient_square` estimates |G|^2, the squared norm of the true gradient; `variance_trace` estimates
    S = tr(Sigma), the summed variance of a single sample's gradient.
    """

    gradient_square: float
    variance_trace: float


def estimate(norms: Sequence[float], slot_samples: int, mean_norm: float) -> Estimate | None:
    """The estimates from the norms of a step's contributions and of their mean; None from fewer than two.

    Each contribution is the mean gradient over `slot_samples` samples, all of them equally many, so the mean
    is over B_big = len(norms) * B_small samples, and E|G_B|^2 = |G|^2 + S / B gives (appendix A.1)

        |G|^2 = (B_big |G_big|^2 - B_small |G_small|^2) / (B_big - B_small)
        S     = (|G_small|^2 - |G_big|^2) / (1 / B_small - 1 / B_big)
    """
    if len(norms) < 2 or slot_samples < 1:
        return None
    small, big = slot_samples, slot_samples * len(norms)
    small_square = sum(norm * norm for norm in norms) / len(norms)
    big_square = mean_norm * mean_norm
    return Estimate(
        (big * big_square - small * small_square) / (big - small),
        (small_square - big_square) / (1.0 / small - 1.0 / big),
    )


class NoiseScale:
    """S / |G|^2 in samples, from averages of both over steps: the ratio of two noisy values is biased."""

    def __init__(self, smoothing: float = SMOOTHING) -> None:
        self._smoothing = smoothing
        self._gradient_square = self._variance_trace = 0.0
        self._steps = 0

    def add(self, found: Estimate) -> None:
        """Take in a step's estimates; ones that are not finite are left out."""
        if not abs(found.gradient_square) + abs(found.variance_trace) < float("inf"):
            return
        keep = self._smoothing
        self._gradient_square = keep * self._gradient_square + (1 - keep) * found.gradient_square
        self._variance_trace = keep * self._variance_trace + (1 - keep) * found.variance_trace
        self._steps += 1

    def samples(self) -> float | None:
        """The simple noise scale; None before enough steps, or where the averages are no positive numbers.

        Both averages lack the same factor 1 - smoothing^steps of their beginning, which the ratio cancels.
        """
        if self._steps < STEPS_MIN or self._gradient_square <= 0 or self._variance_trace <= 0:
            return None
        return self._variance_trace / self._gradient_square

    def step(self, report: m.StepReport) -> float | None:
        """Take in a step's report and tell the noise scale up to it; a skipped step tells nothing."""
        norms = slot_norms(report)
        if norms and not report.is_skip:
            found = estimate(norms, report.samples // len(norms), report.gradient_norm)
            if found is not None:
                self.add(found)
        return self.samples()


class SliceNoise:
    """The noise scale of each slice alone, by its number."""

    def __init__(self) -> None:
        self._scales: dict[int, NoiseScale] = {}

    def step(self, report: m.StepReport) -> None:
        """Take in a step's report; a slice whose contributions' norms are not known is left out."""
        slots = len(report.slots)
        if report.is_skip or slots < 2:
            return
        for facts in report.slices:
            if facts.slot_gradient_norm <= 0:
                continue
            norms = [facts.slot_gradient_norm] * slots
            found = estimate(norms, report.samples // slots, facts.gradient_norm)
            if found is not None:
                self._scales.setdefault(facts.slice, NoiseScale()).add(found)

    def samples(self, number: int) -> float | None:
        scale = self._scales.get(number)
        return None if scale is None else scale.samples()


def slot_norms(report: m.StepReport) -> list[float]:
    """Norm of each slot's mean gradient; empty where the shards have not said all of them."""
    norms = [slot.gradient_norm for slot in report.slots]
    return norms if all(norm > 0 for norm in norms) else []
