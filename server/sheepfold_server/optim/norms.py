"""fp64 partials of norms, per row and per block, whose order of addition is fixed on every device.

A row is always reduced as a whole, by one instruction sequence that knows neither the number of rows nor
of threads (a test compares bits over both). Blocks add 64 row sums by elementwise halving. Slices are
finished on the host: block partials in block order. So no sum depends on where shards, tiles or threads cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sheepfold_server.optim.layout import ShardLayout, tiles, to_device
from sheepfold_wire.manifest import ROWS_PER_BLOCK
from sheepfold_wire.rules import NormOrder


def row_partials(
    values: Tensor,  # (n, 1024) of any floating dtype
    order: NormOrder = "2",
) -> Tensor:  # (n,) fp64
    """Per row: the sum of squares (order 2), the sum of magnitudes (1), the largest magnitude (inf).

    Squares of finite fp32 values neither overflow nor vanish in fp64.
    """
    wide = values.to(torch.float64)
    if order == "2":
        return wide.mul_(wide).sum(1)
    return wide.abs_().sum(1) if order == "1" else wide.abs_().amax(1)


def add_halves(
    values: Tensor,  # (..., 2**k), overwritten
) -> Tensor:  # (...) a view of its first column
    """Adds the right half of the columns to the left half until one column is left."""
    width = values.shape[-1]
    while width > 1:
        width //= 2
        left = values.narrow(-1, 0, width)
        torch.add(left, values.narrow(-1, width, width), out=left)
    return values.select(-1, 0)


class RowPartials:
    """Partials of some buffers of `rows` rows, filled by passes, and the partials of their blocks."""

    def __init__(self, buffers: int, layout: ShardLayout, device: torch.device) -> None:
        rows = layout.rows
        self._blocks = to_device(torch.from_numpy(layout.block_rows.reshape(-1)), device)
        # One row more, always 0: it stands for the rows that a short block does not have.
        self._partials = torch.zeros((buffers, rows + 1), dtype=torch.float64, device=device)

    def rows(self, buffer: int, first: int, count: int) -> Tensor:
        """(count,) fp64: where a pass writes, or reads, the partials of rows [first, first + count)."""
        return self._partials.select(0, buffer).narrow(0, first, count)

    def clear(self) -> None:
        """Forgets what passes wrote, of rows that this step may not touch."""
        self._partials.zero_()

    def block_sums(self) -> Tensor:
        """(buffers, blocks) fp64 on the device: the sum of each block's rows."""
        return add_halves(self._gathered())

    def block_maxima(self) -> Tensor:
        """(buffers, blocks) fp64 on the device: the largest of each block's rows."""
        return self._gathered().amax(-1)

    def _gathered(self) -> Tensor:
        gathered = torch.index_select(self._partials, 1, self._blocks)
        return gathered.view(self._partials.shape[0], -1, ROWS_PER_BLOCK)


def block_sums_of_squares(
    values: Tensor,  # (rows, 1024) fp32
    layout: ShardLayout,
    tile_rows: int,
) -> Tensor:  # (blocks,) fp64
    """Sums of squares per own block of one whole buffer."""
    partials = RowPartials(1, layout, values.device)
    for first, count in tiles(layout.rows, tile_rows):
        partials.rows(0, first, count).copy_(row_partials(values.narrow(0, first, count)))
    return partials.block_sums().select(0, 0)
