"""What the phases of a step report, and how far a step has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sheepfold_server.optim.fold import Contribution, StatisticSums
from sheepfold_server.optim.layout import Booleans
from sheepfold_server.optim.payload import Float32, Float64, Int64
from sheepfold_wire.codecs import Buffer


class SliceTotals(NamedTuple):
    """Partials over all blocks of one slice, in block order: added, or for norms of order inf the largest."""

    weight: float
    update: float
    gradient: float
    """Sum of squares before clipping, whatever the order."""


@dataclass(frozen=True, slots=True)
class SumReport:
    """The mean gradient of a step, before any clipping; `finite` covers the float statistics too."""

    finite: bool
    max_abs: float
    sum_of_squares: Float64  # (own blocks,)


@dataclass(frozen=True, slots=True)
class DirectionReport:
    """Partials of the norms of the weights before the step and of u, both (own blocks,)."""

    weight_partials: Float64
    update_partials: Float64


class SliceReport(NamedTuple):
    """One slice's figures of a step; the gradient's norm is L2, before clipping."""

    slice: int
    weight_norm: float
    update_norm: float
    gradient_norm: float
    trust_ratio: float
    clamp: str = ""
    """Which bound the ratio met: "", "phi" or "ratio"."""


class Snapshot(NamedTuple):
    """Everything a shard would have to keep, on the host."""

    weights: Float32  # (rows, 1024), as is each buffer of the state
    state: tuple[Float32, ...]
    applied_steps: Int64  # per own parameter, in layout.tensors order
    floats: Float32
    integers: Int64

    def copy(self, room: Snapshot | None = None) -> Snapshot:
        """`room`: one of the same shapes that is written over, so that no new pages of memory are needed."""
        if room is None:
            state = tuple(np.empty_like(buffer) for buffer in self.state)
            small = (
                np.empty_like(self.applied_steps),
                np.empty_like(self.floats),
                np.empty_like(self.integers),
            )
            room = Snapshot(np.empty_like(self.weights), state, *small)
        for to, of in zip(room.arrays(), self.arrays(), strict=True):
            to[...] = of
        return room

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """In the order of the fields."""
        return (self.weights, *self.state, self.applied_steps, self.floats, self.integers)

    def pieces(self) -> tuple[Buffer, ...]:
        """Its bytes without a copy, in the order of the fields."""
        return pieces(*self.arrays())

    def read(self, payload: Buffer) -> Snapshot:
        """One of the same shapes from such bytes; raises ValueError for another length."""
        rest = memoryview(payload).cast("B")
        arrays: list[npt.NDArray[Any]] = []
        likes = self.arrays()
        for like in likes:
            if len(rest) < like.nbytes:
                raise ValueError(f"{memoryview(payload).nbytes} bytes are fewer than this shard's state has")
            arrays.append(np.frombuffer(rest[: like.nbytes], like.dtype).reshape(like.shape).copy())
            rest = rest[like.nbytes :]
        if len(rest):
            raise ValueError(f"{len(rest)} bytes more than this shard's state has")
        weights, *state, applied_steps, floats, integers = arrays
        return Snapshot(weights, tuple(state), applied_steps, floats, integers)


def pieces(*arrays: npt.NDArray[Any]) -> tuple[Buffer, ...]:
    """The bytes of arrays, empty ones left out."""
    return tuple(array.data for array in arrays if array.size)


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
    pending: Contribution | None = None
    """The newest contribution: folded with the next one, or in the pass that finishes the sum."""
    is_begun: bool = False
    """Whether `total` holds a contribution."""
    phase: Phase = Phase.EMPTY
    gradient_squares: Float64 = field(default_factory=lambda: np.empty(0))  # (own blocks,)
    partials: Float64 = field(default_factory=lambda: np.empty((2, 0)))  # (2, own blocks): weights, u
    present: Booleans = field(default_factory=lambda: np.empty(0, np.bool_))  # per manifest tensor
    clip_scale: float = 1.0
