"""Adding contributions into a step's sum, in the order given, and dividing it at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sheepfold_server.optim.layout import tiles, to_device
from sheepfold_server.optim.payload import Float32, Int64, Part

ONE = np.float32(1.0)


class Contribution(NamedTuple):
    """One attempt's part and the fp32 factor it is counted with."""

    part: Part
    factor: np.float32


def fold_rows(
    total: Tensor,  # (rows, 1024) fp32, updated in place
    contributions: Sequence[Contribution],
    is_empty: bool,  # whether `total` holds nothing yet (its values are then never read)
    scratch: Tensor,  # (tile_rows, 1024) fp32, overwritten
) -> None:
    """total <- total + factor * g for each contribution in order, all of them per tile.

    The first one of a step is copied: adding -0.0 onto a zero would lose its sign, and one slot holding
    g would no longer equal the step of g itself. A factor of exactly 1 needs no multiplication.
    """
    for first, count in tiles(total.shape[0], scratch.shape[0]):
        sum_tile = total.narrow(0, first, count)
        term = scratch.narrow(0, 0, count)
        for number, (part, factor) in enumerate(contributions):
            target = sum_tile if is_empty and number == 0 else term
            # Uploaded in the codec's dtype: half the bytes, and torch would convert on the host otherwise.
            target.copy_(to_device(part.parameters.narrow(0, first, count), total.device))
            if factor != ONE:
                torch.mul(target, float(factor), out=target)
            if target is term:
                torch.add(sum_tile, term, out=sum_tile)


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


def divide_rows(
    values: Tensor,  # (n, 1024) fp32, divided in place
    divisor: Tensor,  # () fp32 on the device: a host scalar would be turned into a multiplication on CUDA
    scratch: Tensor,  # (n, 1024) fp32, overwritten
    largest: Tensor,  # (n,) fp32, receives the largest magnitude of each row
) -> None:
    """The mean of a tile of the sum, and its largest magnitudes."""
    torch.div(values, divisor, out=values)
    torch.abs(values, out=scratch)
    torch.amax(scratch, dim=1, out=largest)
