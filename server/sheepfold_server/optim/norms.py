"""fp64 sums of squares whose order of addition is fixed by construction, on every device.

Only elementwise additions of halves are used: 1,024 squares -> 512 -> ... -> 1 per row, then 64 row sums
-> 32 -> ... -> 1 per block. A reduction of torch's own (`sum`, `norm`) may add in another order for
another thread count, tile or device; an elementwise addition has one correctly rounded result.
Slices are finished on the host: block sums added in block order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sheepfold_server.optim.layout import ShardLayout, tiles, to_device
from sheepfold_wire.manifest import ROW_ELEMENTS, ROWS_PER_BLOCK


def add_halves(
    values: Tensor,  # (n, 2**k) fp64, overwritten
) -> Tensor:  # (n,) a view of its first column
    """Adds the right half of the columns to the left half until one column is left."""
    width = values.shape[1]
    while width > 1:
        width //= 2
        left = values.narrow(1, 0, width)
        torch.add(left, values.narrow(1, width, width), out=left)
    return values.select(1, 0)


def row_sums_of_squares(
    values: Tensor,  # (n, 1024) fp32
    wide: Tensor,  # (>= n, 1024) fp64 scratch, overwritten
    out: Tensor,  # (n,) fp64
) -> None:
    """The sum of squares of each row. Squares of finite fp32 values neither overflow nor vanish in fp64."""
    squares = wide.narrow(0, 0, values.shape[0])
    squares.copy_(values)
    torch.mul(squares, squares, out=squares)
    out.copy_(add_halves(squares))


def block_sums(
    row_sums: Tensor,  # (rows + 1,) fp64; the last one is 0 and stands for rows a block does not have
    block_rows: Tensor,  # (blocks, 64) int64
) -> Tensor:  # (blocks,) fp64
    """The sum of each block's row sums."""
    gathered = torch.index_select(row_sums, 0, block_rows.reshape(-1))
    return add_halves(gathered.view(-1, ROWS_PER_BLOCK))


class RowSums:
    """Row sums of one buffer of `rows` rows, filled tile by tile, and their block sums."""

    def __init__(self, rows: int, block_rows: Tensor, device: torch.device) -> None:
        self._block_rows = block_rows
        self._row_sums = torch.zeros(rows + 1, dtype=torch.float64, device=device)

    def square(self, first_row: int, values: Tensor, wide: Tensor) -> None:
        """Stores the row sums of squares of a tile of (n, 1024) fp32 that begins at `first_row`."""
        row_sums_of_squares(values, wide, self._row_sums.narrow(0, first_row, values.shape[0]))

    def blocks(self) -> Tensor:
        """(blocks,) fp64 on the device."""
        return block_sums(self._row_sums, self._block_rows)

    def rows(self) -> Tensor:
        """(rows,) fp64 on the device."""
        return self._row_sums.narrow(0, 0, self._row_sums.shape[0] - 1)


def wide_tile(tile_rows: int, device: torch.device) -> Tensor:
    """The fp64 scratch tile (tile_rows, 1024) of `RowSums.square`."""
    return torch.empty((tile_rows, ROW_ELEMENTS), dtype=torch.float64, device=device)


def block_sums_of_squares(
    values: Tensor,  # (rows, 1024) fp32
    layout: ShardLayout,
    tile_rows: int,
) -> Tensor:  # (blocks,) fp64
    """Sums of squares per own block of one whole buffer."""
    device = values.device
    sums = RowSums(layout.rows, to_device(torch.from_numpy(layout.block_rows), device), device)
    wide = wide_tile(tile_rows, device)
    for first, count in tiles(layout.rows, tile_rows):
        sums.square(first, values.narrow(0, first, count), wide)
    return sums.blocks()
