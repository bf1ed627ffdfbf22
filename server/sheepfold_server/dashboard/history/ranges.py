"""What the steps that are kept whole say of each slice. Pure."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.history.record import CLAMP, RATIO, slice_facts
from sheepfold_server.dashboard.history.rows import Floats, Rows

Runs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SliceRange:
    """A slice's newest facts, and its trust ratio over the steps that are kept whole."""

    facts: m.SliceFacts
    trust_ratio_min: float
    trust_ratio_max: float
    trust_ratio_drift: float
    """Newest over the median; 1 is none."""
    steps_clamped: int
    """Newest applied steps in a row that met a bound."""


def slice_ranges(
    newest: Floats,  # (slices, 5), of the newest applied step
    ratios: Rows,  # of the kept steps, one series per slice
    runs: Runs,  # (slices,)
    names: Sequence[str],
) -> tuple[SliceRange, ...]:
    """What the newest step and the kept ones say of each slice."""
    now = newest[:, RATIO]
    if len(ratios):
        with warnings.catch_warnings():  # a slice that no kept step touched has no value, and gets its newest
            warnings.simplefilter("ignore", RuntimeWarning)
            found = np.nanmin(ratios.low, 0), np.nanmax(ratios.high, 0), np.nanmedian(ratios.mean, 0)
        low, high, middle = (np.where(np.isfinite(part), part, now) for part in found)
    else:
        low = high = middle = now
    return tuple(
        SliceRange(
            facts,
            float(low[facts.slice]),
            float(high[facts.slice]),
            facts.trust_ratio / float(middle[facts.slice]) if middle[facts.slice] else 1.0,
            int(runs[facts.slice]),
        )
        for facts in slice_facts(newest, names)
    )


def clamp_runs(before: Runs, slices: Floats) -> Runs:
    """Steps in a row that each slice met a bound, after a step with these values (slices, 5)."""
    known = np.zeros(max(len(before), len(slices)), np.int64)
    known[: len(before)] = before
    is_clamped = np.zeros(len(known), np.bool_)
    is_clamped[: len(slices)] = np.nan_to_num(slices[:, CLAMP]) > 0
    return np.where(is_clamped, known + 1, 0)
