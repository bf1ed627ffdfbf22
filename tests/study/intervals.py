"""Means with confidence intervals over few seeds: Student's t, two-sided, 95 %."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The 0.975 quantile for 1, 2, ... degrees of freedom; a study of more than 11 seeds has to add to it."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Of a mean over seeds. Of one seed, or where one diverged, `half` is None."""

    mean: float
    deviation: float | None
    """Standard deviation of a single seed."""
    half: float | None
    """Half the width of the 95 % interval of the mean."""
    count: int

    @property
    def excludes_zero(self) -> bool:
        return self.half is not None and abs(self.mean) > self.half


def t_quantile(freedom: int) -> float:
    if not 1 <= freedom <= len(T_975):
        raise ValueError(f"{freedom} degrees of freedom: T_975 has quantiles for 1 to {len(T_975)}")
    return T_975[freedom - 1]


def interval(values: Sequence[float]) -> Interval:
    """Of the mean of independent values, one per seed. Where one is not finite, neither is the mean."""
    mean = statistics.fmean(values)
    if len(values) < 2 or not math.isfinite(mean):
        return Interval(mean, None, None, len(values))
    deviation = statistics.stdev(values)
    half = t_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    return Interval(mean, deviation, half, len(values))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Of the mean difference, seed by seed: the same data order and initial weights on both sides."""
    return interval([a - b for a, b in zip(ours, theirs, strict=True)])
