"""How the contributions of a step lie to their mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sheepfold_server.optim.layout import CPU_TILE_ROWS, ShardLayout, cut, tiles, to_device
from sheepfold_server.optim.passes import decoded
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
        part = read_part(layout.plan, layout.shard, payload, codec)
        product = torch.zeros((), dtype=torch.float64, device=mean.device)
        for at in tiles(layout.rows, CPU_TILE_ROWS):
            scales = None if part.scales is None else to_device(cut(part.scales, at), mean.device)
            own = decoded(to_device(cut(part.parameters, at), mean.device), scales)
            product += (own * cut(mean, at)).sum(dtype=torch.float64)
        found.append(float(product))
    return tuple(found)
