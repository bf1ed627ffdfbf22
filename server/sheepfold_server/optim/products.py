"""How the contributions of a step lie to their mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sheepfold_server.optim.layout import CPU_TILE_ROWS, ShardLayout, tiles, to_device
from sheepfold_server.optim.payload import read_part
from sheepfold_wire.codecs import Buffer, Codec


def slot_products(
    layout: ShardLayout,
    mean: Tensor,  # (rows, 1024) fp32, where the shard computes
    payloads: Sequence[tuple[Buffer, Codec]],
) -> tuple[float, ...]:
    """Inner product of each part's parameters with the mean, summed in fp64. Raises PartLengthError."""
    found = []
    for payload, codec in payloads:
        part = read_part(layout.plan, layout.shard, payload, codec).parameters
        product = torch.zeros((), dtype=torch.float64, device=mean.device)
        for first, count in tiles(layout.rows, CPU_TILE_ROWS):
            own = to_device(part.narrow(0, first, count), mean.device).float()
            product += (own * mean.narrow(0, first, count)).sum(dtype=torch.float64)
        found.append(float(product))
    return tuple(found)
