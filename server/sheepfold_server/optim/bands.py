"""The pass that finishes a sum, in bands: each is handed on while the next one is made."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sheepfold_server.optim.fold import Contribution
from sheepfold_server.optim.kernel import Kernel
from sheepfold_server.optim.layout import cut, default_tile_rows, tiles, to_host
from sheepfold_wire.codecs import Buffer

BAND_ROWS = 1024
"""4 MiB: in the cache yet when somebody reads it. Devices take more at once."""

HandOn = Callable[[Buffer], None]
"""Takes a piece that stays as it is until pass 1."""


def finish_in_bands(
    kernel: Kernel,
    total: Tensor,  # (rows, 1024) fp32: the sum, in place the mean
    last: Contribution,
    is_first: bool,
    divisor: float,
    norms: tuple[Tensor, Tensor],  # (rows,) fp64 sums of squares and (rows,) fp32 maxima, written
    hand_on: HandOn | None,
) -> None:
    """sum <- (sum + factor * part) / divisor; bits do not depend on the bands."""
    (part, factor), (squares, largest) = last, norms
    for at in tiles(total.shape[0], max(BAND_ROWS, default_tile_rows(total.device))):
        mean, given = cut(total, at), cut(part.parameters, at)
        scales = None if part.scales is None else cut(part.scales, at)
        norms_of_it = cut(squares, at), cut(largest, at)
        kernel.fold_last(mean, given, scales, float(factor), is_first, divisor, *norms_of_it)
        if hand_on is not None:
            hand_on(to_host(mean).data)
