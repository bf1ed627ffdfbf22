"""What the steps that are kept whole say of each slice. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.history.record import CLAMP, RATIO, slice_facts
from sheepfold_server.dashboard.history.rows import Floats


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


def slice_ranges(kept: Floats, names: list[str]) -> tuple[SliceRange, ...]:
    """What applied steps, oldest first, say of each slice; `kept` is (steps, slices, 5)."""
    if not len(kept):
        return ()
    ratios = kept[:, :, RATIO]
    is_touched = np.isfinite(ratios).any(axis=0)
    finite = np.where(is_touched, ratios, 1.0)
    low, high, middle = np.nanmin(finite, axis=0), np.nanmax(finite, axis=0), np.nanmedian(finite, axis=0)
    free = kept[::-1, :, CLAMP] == 0
    in_a_row = np.where(free.any(axis=0), free.argmax(axis=0), len(kept))
    return tuple(
        SliceRange(
            facts,
            float(low[facts.slice]),
            float(high[facts.slice]),
            facts.trust_ratio / float(middle[facts.slice]) if middle[facts.slice] else 1.0,
            int(in_a_row[facts.slice]),
        )
        for facts in slice_facts(kept[-1], names)
    )
