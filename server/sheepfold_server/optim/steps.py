"""What the phases of a step report, and how far a step has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import numpy as np
from torch import Tensor

from sheepfold_server.optim.fold import StatisticSums
from sheepfold_server.optim.layout import Booleans
from sheepfold_server.optim.payload import Float32, Float64, Int64


class SquareTotals(NamedTuple):
    """Sums of squares over all blocks of one slice, added in block order."""

    weight: float
    update: float
    gradient: float


@dataclass(frozen=True, slots=True)
class SumReport:
    """The mean gradient of a step, before any clipping; `finite` covers the float statistics too."""

    finite: bool
    max_abs: float
    sum_of_squares: Float64  # (own blocks,)


@dataclass(frozen=True, slots=True)
class DirectionReport:
    """Sums of squares of the weights before the step and of u, both (own blocks,)."""

    weight_squares: Float64
    update_squares: Float64


@dataclass(frozen=True, slots=True)
class SliceReport:
    """One slice's figures of a step: L2 norms, the gradient's before clipping."""

    slice: int
    weight_norm: float
    update_norm: float
    gradient_norm: float
    trust_ratio: float


class Snapshot(NamedTuple):
    """Copies of everything a shard would have to keep, on the host."""

    weights: Float32  # (rows, 1024), as are the moments
    first: Float32
    second: Float32
    applied_steps: Int64  # per own parameter, in layout.tensors order
    floats: Float32
    integers: Int64


class StepOrderError(Exception):
    """A phase asked for out of turn: the caller and this shard disagree on what has been done."""


class Phase(Enum):
    """What has been done to an open step's sum."""

    EMPTY = "has no contribution yet"
    FOLDING = "is being folded"
    MEAN = "holds the mean gradient"
    DIRECTIONS = "holds the update direction"


@dataclass(slots=True)
class OpenStep:
    """One sum and how far it has come. `total` is (rows, 1024) fp32: the sum, its mean, then u."""

    total: Tensor
    statistics: StatisticSums
    phase: Phase = Phase.EMPTY
    squares: list[Float64] = field(default_factory=list)  # per block: gradient, then weights, then u
    present: Booleans = field(default_factory=lambda: np.empty(0, np.bool_))  # per manifest tensor
