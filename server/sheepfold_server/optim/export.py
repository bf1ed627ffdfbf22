"""State as bytes: encoded parts for pulls and logs, digests for comparing shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xxhash
from torch import Tensor

from sheepfold_server.optim.fold import StatisticSums
from sheepfold_server.optim.layout import Integers, ShardLayout, default_tile_rows, tiles, to_host
from sheepfold_server.optim.payload import Part, write_part
from sheepfold_wire.codecs import Buffer, Codec, encode
from sheepfold_wire.digest import BIAS_COUNTERS, STATISTICS, Entry
from sheepfold_wire.manifest import ROW_ELEMENTS
from sheepfold_wire.pooling import BufferPool

FUSED = (torch.bfloat16, torch.float32)
"""Dtypes of the encoded copy that pass 2 writes as it goes: one, the first of these that is asked for.

A compiled pass that wrote two would hold the new weights in one more buffer, made for each step.
"""


def encode_part(
    layout: ShardLayout,
    rows: Tensor,  # (rows, 1024) fp32, on any device
    statistics: StatisticSums,
    codec: Codec,
    pool: BufferPool,
) -> memoryview:
    """A part with these parameter rows, rounded to nearest even, and these statistics."""
    payload, part = blank_part(layout, statistics, codec, pool)
    download(rows, [part.parameters])
    return payload


def blank_part(
    layout: ShardLayout, statistics: StatisticSums, codec: Codec, pool: BufferPool
) -> tuple[memoryview, Part]:
    """(payload, writable views of it): statistics filled in, used parameter rows not yet, the rest 0."""
    payload = memoryview(pool.take(layout.plan.part_bytes(layout.shard, codec)))
    part = write_part(layout.plan, layout.shard, codec, payload)
    part.parameters[layout.plan.used_rows(layout.shard) :].zero_()
    part.floats[:] = statistics.floats
    part.integers[:] = statistics.integers
    return payload, part


def download(
    rows: Tensor,  # (rows, 1024) fp32, on any device
    copies: Sequence[Tensor],  # (rows, 1024) each, on the host; written
) -> None:
    """Copies of the rows in other dtypes, converted before they leave the device."""
    for first, count in tiles(rows.shape[0], default_tile_rows(rows.device)):
        for copy in copies:
            copy.narrow(0, first, count).copy_(rows.narrow(0, first, count).to(copy.dtype))


def state_digests(
    layout: ShardLayout,
    buffers: tuple[Tensor, ...],  # weights and state: (rows, 1024) fp32 each
    applied_steps: Integers,  # per own parameter
    statistics: StatisticSums,
) -> list[Entry]:
    """XXH3-128 of each block's weights and state without padding, each bias counter and each statistic."""
    entries: list[Entry] = []
    places = zip(
        layout.blocks.tolist(), layout.block_first_rows.tolist(), layout.block_elements.tolist(), strict=True
    )
    for block, first_row, elements in places:
        digest = xxhash.xxh3_128()
        for buffer in buffers:
            rows = to_host(buffer.narrow(0, first_row, -(-elements // ROW_ELEMENTS)))
            digest.update(rows.reshape(-1)[:elements].data)
        entries.append((block, digest.digest()))
    for tensor, applied in zip(layout.tensors, applied_steps.tolist(), strict=True):
        entries.append((BIAS_COUNTERS + tensor, xxhash.xxh3_128_digest(np.int64(applied).tobytes())))
    for place in layout.plan.statistics(layout.shard):
        held = statistics.integers if place.is_integer else statistics.floats
        values = held[place.offset : place.offset + place.elements]
        entries.append((STATISTICS + place.tensor, xxhash.xxh3_128_digest(values.tobytes())))
    return entries


def reencoded(exact: Buffer, elements: int, codec: Codec) -> bytearray:
    """An fp32 part with its first `elements` values in another codec; statistics stay as they are."""
    values, rest = np.frombuffer(exact, np.float32, elements), memoryview(exact)[4 * elements :]
    out = bytearray(elements * codec.itemsize)
    encode(codec, values, out)
    return out + rest
