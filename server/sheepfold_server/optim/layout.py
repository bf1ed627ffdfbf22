"""Where a shard's rows, blocks, tensors and slices lie, as index arrays; and the way to and from a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sheepfold_wire.manifest import BLOCK_ELEMENTS, ROW_ELEMENTS, ROWS_PER_BLOCK
from sheepfold_wire.plan import Fragment, Plan

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

CPU_TILE_ROWS = 256  # 1 MiB of fp32 per buffer; with 64 rows a step took 1.4 times as long
DEVICE_TILE_ROWS = 16_384  # an accelerator has no cache to stay in, and each launch costs microseconds


def default_tile_rows(device: torch.device) -> int:
    """Rows processed at once: a cache's worth on a CPU, many on a device."""
    return CPU_TILE_ROWS if device.type == "cpu" else DEVICE_TILE_ROWS


Rows = tuple[int, int]
"""(first row, number of rows) of a stretch of a buffer."""


def cut(tensor: Tensor, rows: Rows) -> Tensor:
    """A view of those rows."""
    return tensor.narrow(0, *rows)


def tiles(rows: int, tile_rows: int) -> Iterator[Rows]:
    """(first row, rows) of each tile; all are whole multiples of 64 rows, only the last may be shorter."""
    for first in range(0, rows, tile_rows):
        yield first, min(tile_rows, rows - first)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on `device`; itself on a CPU. Every upload goes through here.

    Non-blocking is safe for the pageable memory we pass: the driver has copied it when the call returns.
    """
    return tensor.to(device, non_blocking=True)


def to_host(tensor: Tensor) -> npt.NDArray[Any]:
    """A device tensor's values; waits for the device. Every download goes through here. No copy on a CPU."""
    values: npt.NDArray[Any] = tensor.cpu().numpy()
    return values


@dataclass(frozen=True)
class ShardLayout:
    """One shard's share of a plan. Pure indices on the host; holds no values."""

    plan: Plan
    shard: int

    @cached_property
    def fragments(self) -> tuple[Fragment, ...]:
        """Own fragments in row order."""
        return self.plan.shard_fragments(self.shard)

    @cached_property
    def rows(self) -> int:
        """Rows of each buffer, a multiple of 64."""
        return self.plan.rows(self.shard)

    @cached_property
    def blocks(self) -> Integers:
        """Global indices of the own blocks, ascending: the order of all per-block results."""
        return _concatenated([np.arange(f.first_block, f.first_block + f.blocks) for f in self.fragments])

    @cached_property
    def block_first_rows(self) -> Integers:
        """First row of each own block in the shard's buffer."""
        return _concatenated([f.first_row + ROWS_PER_BLOCK * np.arange(f.blocks) for f in self.fragments])

    @cached_property
    def block_elements(self) -> Integers:
        """Elements of each own block without padding."""
        left = [f.elements - BLOCK_ELEMENTS * np.arange(f.blocks) for f in self.fragments]
        return np.minimum(BLOCK_ELEMENTS, _concatenated(left))

    @cached_property
    def block_rows(self) -> Integers:
        """(own blocks, 64): the rows of each block; a shorter block names row `rows`, kept at 0."""
        within = np.arange(ROWS_PER_BLOCK)
        used = -(-self.block_elements // ROW_ELEMENTS)
        return np.where(within < used[:, None], self.block_first_rows[:, None] + within, self.rows)

    @cached_property
    def slices(self) -> tuple[int, ...]:
        """Global indices of the slices with blocks here, ascending."""
        return tuple(f.slice for f in self.fragments)

    @cached_property
    def tensors(self) -> tuple[int, ...]:
        """Manifest indices of the parameters with blocks here, ascending."""
        return tuple(sorted({self.plan.manifest.slices[s].tensor for s in self.slices}))

    @cached_property
    def block_spans(self) -> tuple[Integers, Integers]:
        """(own slices,) each: first own block of the slice, and how many it has here."""
        counts = np.array([f.blocks for f in self.fragments], np.int64)
        return np.cumsum(counts) - counts, counts

    @cached_property
    def split_places(self) -> tuple[int, ...]:
        """Places in `slices` of those that lie on other shards as well."""
        return tuple(i for i, index in enumerate(self.slices) if index in self.plan.split_slices)

    @cached_property
    def slice_of_row(self) -> Integers:
        """(rows,): place in `slices` of each row's slice; `len(slices)` for the padding at the end."""
        return self._per_row(np.arange(len(self.fragments)), len(self.slices))

    @cached_property
    def tensor_of_row(self) -> Integers:
        """(rows,): place in `tensors` of each row's tensor; `len(tensors)` for the padding at the end."""
        place = {tensor: i for i, tensor in enumerate(self.tensors)}
        owners = [place[self.plan.manifest.slices[f.slice].tensor] for f in self.fragments]
        return self._per_row(np.array(owners, np.int64), len(self.tensors))

    def _per_row(self, per_fragment: Integers, padding: int) -> Integers:
        result = np.full(self.rows, padding, np.int64)
        used = np.repeat(per_fragment, [f.rows for f in self.fragments])
        result[: used.size] = used
        return result

    @cached_property
    def partial_rows(self) -> tuple[Integers, Integers]:
        """(rows that end in padding, the elements each does hold), the unused rows at the end included."""
        cut = [f for f in self.fragments if f.elements % ROW_ELEMENTS]
        unused = np.arange(self.plan.used_rows(self.shard), self.rows)
        rows = _concatenated([np.array([f.first_row + f.rows - 1 for f in cut], np.int64), unused])
        held = _concatenated([np.array([f.elements % ROW_ELEMENTS for f in cut], np.int64), 0 * unused])
        return rows, held


def _concatenated(parts: list[npt.NDArray[Any]]) -> Integers:
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
