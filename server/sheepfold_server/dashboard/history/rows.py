"""Series over stretches of steps, as arrays, and how neighbouring stretches become one. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Steps = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Each row is one or more consecutive steps, oldest first.

    Shapes: `step`, `seconds`, `samples` (rows,); `low`, `mean`, `high`, `count` (rows, series). `step` is the
    row's first, `seconds` the unix time of its commit, `samples` the total up to there; `count` the steps
    that have a value, and where it is 0 the values are NaN.
    """

    step: Steps
    seconds: Floats
    samples: Floats
    low: Floats
    mean: Floats
    high: Floats
    count: Floats

    def __len__(self) -> int:
        return len(self.step)

    @property
    def series(self) -> int:
        return int(self.mean.shape[1])

    def chosen(self, rows: Any) -> Rows:
        return Rows(*(getattr(self, name)[rows] for name in self.__slots__))


def exact(step: Steps, seconds: Floats, samples: Floats, values: Floats) -> Rows:
    """Rows of one step each; a value that is not finite counts as none."""
    is_value = np.isfinite(values)
    values = np.where(is_value, values, np.nan)
    return Rows(step, seconds, samples, values, values, values, is_value.astype(np.float64))


def no_rows(series: int) -> Rows:
    none = np.empty(0)
    return exact(np.empty(0, np.int64), none, none, np.empty((0, series)))


def joined(parts: Iterable[Rows], series: int) -> Rows:
    """One after the other. A part made before a series was known has no values of it."""
    found = [_widened(part, series) for part in parts if len(part)]
    if not found:
        return no_rows(series)
    return Rows(*(np.concatenate([getattr(part, name) for part in found]) for name in Rows.__slots__))


def _widened(rows: Rows, series: int) -> Rows:
    missing = series - rows.series
    if missing <= 0:
        return rows
    wide = {
        name: np.pad(getattr(rows, name), ((0, 0), (0, missing)), constant_values=fill)
        for name, fill in (("low", np.nan), ("mean", np.nan), ("high", np.nan), ("count", 0.0))
    }
    return Rows(rows.step, rows.seconds, rows.samples, **wide)


def merged(rows: Rows, steps_per_row: int) -> Rows:
    """Rows whose first steps lie in the same multiple of `steps_per_row` become one; means by count."""
    if not len(rows):
        return rows
    bucket = rows.step // steps_per_row
    starts = np.flatnonzero(np.r_[True, bucket[1:] != bucket[:-1]])
    if len(starts) == len(rows):
        return rows
    count = np.add.reduceat(rows.count, starts, axis=0)
    total = np.add.reduceat(np.where(rows.count > 0, rows.mean * rows.count, 0.0), starts, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, total / count, np.nan)
    low = np.fmin.reduceat(rows.low, starts, axis=0)
    high = np.fmax.reduceat(rows.high, starts, axis=0)
    mean = np.clip(mean, low, high)  # the rounding of a sum must not leave the range
    return Rows(rows.step[starts], rows.seconds[starts], rows.samples[starts], low, mean, high, count)
