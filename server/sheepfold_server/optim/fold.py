"""One contribution of a step, and the sums of its statistics, on the host."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sheepfold_server.optim.payload import Float32, Int64, Part

ONE = np.float32(1.0)


class Contribution(NamedTuple):
    """One attempt's part and the fp32 factor it is counted with."""

    part: Part
    factor: np.float32


class StatisticSums:
    """One step's sums of the shard's statistics, on the host: means of floats, the largest of integers."""

    def __init__(self, floats: int, integers: int) -> None:
        self.floats: Float32 = np.zeros(floats, np.float32)
        self.integers: Int64 = np.zeros(integers, np.int64)

    def fold(self, contribution: Contribution, is_first: bool) -> None:
        """Adds one contribution; the first one replaces what was there."""
        part, factor = contribution
        # An overflow is not an accident here: `divide` reports it and the step is skipped.
        with np.errstate(over="ignore", invalid="ignore"):
            term = part.floats if factor == ONE else part.floats * factor
            if is_first:
                self.floats[:] = term
                self.integers[:] = part.integers
            else:
                self.floats += term
                np.maximum(self.integers, part.integers, out=self.integers)

    def divide(self, divisor: np.float32) -> bool:
        """Turns the float sums into means; whether all of them are finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            if divisor != ONE:
                self.floats /= divisor
        return bool(np.isfinite(self.floats).all())
