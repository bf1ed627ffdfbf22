"""Which element of which tensor stands where in a shard's part: the one walk over a plan, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sheepfold_wire.codecs import SCALE_BYTES, Buffer, Codec
from sheepfold_wire.errors import ShapeMismatch
from sheepfold_wire.manifest import ROW_ELEMENTS, ROWS_PER_BLOCK
from sheepfold_wire.plan import Plan

Bytes = npt.NDArray[np.uint8]


def _zeros(size: int) -> Bytes:
    return np.zeros(size, np.uint8)


@dataclass(frozen=True, slots=True)
class Move:
    """Elements `[first, first + count)` of a flattened tensor stand at `[at, at + count)` of a stretch.

    `row`: of a fragment, the number of its first row in the job, 64 to each block under any plan.
    """

    tensor: int
    first: int
    at: int
    count: int
    row: int = 0

    @property
    def rows(self) -> int:
        """Rows that a fragment takes."""
        return -(-self.count // ROW_ELEMENTS)


@dataclass(frozen=True, slots=True)
class Stretches:
    """Views of one part. `parameters` is in the codec's storage type: bf16 is held as uint16."""

    parameters: npt.NDArray[Any]  # (rows * 1024,)
    floats: npt.NDArray[np.float32]  # (float statistic elements,)
    integers: npt.NDArray[np.int64]  # (integer statistic elements,)
    scales: npt.NDArray[np.float32]  # (rows,), or (0,) under a codec without

    def rows_of(self, move: Move) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """A fragment's whole rows, padding included, and their scales."""
        first = move.at // ROW_ELEMENTS
        end = first + move.rows
        return self.parameters[move.at : end * ROW_ELEMENTS], self.scales[first:end]


@dataclass(frozen=True)
class PartLayout:
    """The moves of one shard's part, in order; what no move covers is padding and stays zero."""

    plan: Plan
    shard: int

    @cached_property
    def parameters(self) -> tuple[Move, ...]:
        """Fragments, each from the row where the plan puts it."""
        slices = self.plan.manifest.slices
        return tuple(
            Move(
                tensor=slices[fragment.slice].tensor,
                first=slices[fragment.slice].first_element + fragment.first_element,
                at=fragment.first_row * ROW_ELEMENTS,
                count=fragment.elements,
                row=fragment.first_block * ROWS_PER_BLOCK,
            )
            for fragment in self.plan.shard_fragments(self.shard)
        )

    @cached_property
    def floats(self) -> tuple[Move, ...]:
        return self._statistics(is_integer=False)

    @cached_property
    def integers(self) -> tuple[Move, ...]:
        return self._statistics(is_integer=True)

    def _statistics(self, is_integer: bool) -> tuple[Move, ...]:
        places = self.plan.statistics(self.shard)
        return tuple(Move(p.tensor, 0, p.offset, p.elements) for p in places if p.is_integer == is_integer)

    def part_bytes(self, codec: Codec) -> int:
        return self.plan.part_bytes(self.shard, codec)

    def new_part(self, codec: Codec, zeros: Callable[[int], Bytes] = _zeros) -> Bytes:
        """A part of zeros, padding included."""
        return zeros(self.part_bytes(codec))

    def offsets(self, codec: Codec) -> tuple[int, int, int]:
        """Bytes before a part's scales, its float statistics, and its integer ones."""
        floats_at, integers_at, _ = self.plan.part_offsets(self.shard, codec)
        return self.plan.rows(self.shard) * ROW_ELEMENTS * codec.itemsize, floats_at, integers_at

    def runs(self, moves: Sequence[Move], codec: Codec) -> tuple[range, ...]:
        """Bytes of these fragments, in as few ranges as they make."""
        found: list[list[Move]] = []
        for move in moves:
            if found and self._place[move] == self._place[found[-1][-1]] + 1:
                found[-1].append(move)
            else:
                found.append([move])
        return tuple(piece for run in found for piece in self.ranges(run, codec))

    def float_runs(self, moves: Sequence[Move], codec: Codec) -> tuple[range, ...]:
        """Bytes of these float statistics; those that follow each other are one range."""
        _, floats_at, _ = self.offsets(codec)
        found: list[range] = []
        for move in moves:
            first, end = floats_at + 4 * move.at, floats_at + 4 * (move.at + move.count)
            if found and found[-1].stop == first:
                found[-1] = range(found[-1].start, end)
            else:
                found.append(range(first, end))
        return tuple(found)

    @cached_property
    def _place(self) -> dict[Move, int]:
        return {move: place for place, move in enumerate(self.parameters)}

    def ranges(self, moves: Sequence[Move], codec: Codec) -> tuple[range, ...]:
        """Bytes of a part that consecutive fragments take, padding included: values, and scales if any."""
        after = self._place[moves[-1]] + 1
        first = moves[0].at // ROW_ELEMENTS
        rows = self.plan.rows(self.shard)
        end = self.parameters[after].at // ROW_ELEMENTS if after < len(self.parameters) else rows
        row, scales_at = ROW_ELEMENTS * codec.itemsize, rows * ROW_ELEMENTS * codec.itemsize
        values = range(first * row, end * row)
        if not codec.has_scales:
            return (values,)
        return values, range(scales_at + first * SCALE_BYTES, scales_at + end * SCALE_BYTES)

    def stretches(self, part: Buffer | npt.NDArray[np.uint8], codec: Codec) -> Stretches:
        """Views of a part's stretches, writable if it is; raises ShapeMismatch for another length."""
        raw: npt.NDArray[np.uint8] = np.frombuffer(part, np.uint8)
        floats_at, integers_at, due = self.plan.part_offsets(self.shard, codec)
        if raw.size != due:
            raise ShapeMismatch(
                f"the part of shard {self.shard} has {raw.size} bytes, {codec.value} under this plan {due}: "
                "client and server disagree about the plan; attach again with the same version of both"
            )
        scales_at = self.plan.rows(self.shard) * ROW_ELEMENTS * codec.itemsize
        return Stretches(
            parameters=raw[:scales_at].view(codec.storage),
            floats=raw[floats_at:integers_at].view("<f4"),
            integers=raw[integers_at:].view("<i8"),
            scales=raw[scales_at:floats_at].view("<f4"),
        )


def part_layouts(plan: Plan) -> tuple[PartLayout, ...]:
    """One layout for each shard of the plan."""
    return tuple(PartLayout(plan, shard) for shard in range(plan.shard_count))


def presence_bitmap(tensor_count: int, present: Iterable[int]) -> bytes:
    """One bit for each tensor of a manifest, lowest bit of the first byte first; `present` holds indices."""
    bits = np.zeros(tensor_count, bool)
    bits[list(present)] = True
    return np.packbits(bits, bitorder="little").tobytes()
