"""Norms and trust ratios of the newest steps, as one array per job."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import sheepfold_wire.messages as m

WEIGHT, UPDATE, GRADIENT, RATIO, CLAMP = range(5)
CLAMPS = ("", "phi", "ratio")


@dataclass(frozen=True, slots=True)
class SliceRange:
    """A slice's newest facts, and the range of its trust ratio over the kept steps."""

    facts: m.SliceFacts
    trust_ratio_min: float
    trust_ratio_max: float


class SliceWindow:
    """A ring of (steps, slices, 5) doubles: 40 bytes per slice and step, however long a job runs."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._names: tuple[str, ...] = ()
        self._values: NDArray[np.float64] = np.empty((0, 0, 5))
        self._rows = 0

    def add(self, slices: tuple[m.SliceFacts, ...]) -> int:
        """Keep a step's slices; returns its row number, or -1 for a step without slices (a skip)."""
        if not slices:
            return -1
        names = tuple(s.name for s in slices)
        if names != self._names:  # first report, or another model under the same name
            self._names, self._rows = names, 0
            self._values = np.empty((self._capacity, len(names), 5))
        facts = [
            (s.weight_norm, s.update_norm, s.gradient_norm, s.trust_ratio, CLAMPS.index(s.clamp))
            for s in slices
        ]
        self._values[self._rows % self._capacity] = facts
        self._rows += 1
        return self._rows - 1

    def at(self, row: int) -> tuple[m.SliceFacts, ...]:
        """The slices of a row that `add` returned; empty if it has been overwritten since."""
        if not max(0, self._rows - self._capacity) <= row < self._rows:
            return ()
        values = self._values[row % self._capacity].tolist()
        return tuple(
            m.SliceFacts(i, name, weight, update, gradient, ratio, CLAMPS[int(clamp)])
            for i, (name, (weight, update, gradient, ratio, clamp)) in enumerate(
                zip(self._names, values, strict=True)
            )
        )

    def newest(self) -> tuple[SliceRange, ...]:
        if not self._rows:
            return ()
        ratios = self._values[: min(self._rows, self._capacity), :, RATIO]
        low, high = ratios.min(axis=0).tolist(), ratios.max(axis=0).tolist()
        return tuple(SliceRange(facts, low[i], high[i]) for i, facts in enumerate(self.at(self._rows - 1)))
