"""A part's bytes as tensors and arrays, and the one-pass check at staging.

Nothing here needs a job's state: parts are read and checked while a step runs in another thread.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sheepfold_server.optim.layout import CPU_TILE_ROWS, Booleans, ShardLayout, cut, tiles, to_host
from sheepfold_server.optim.norms import RowPartials, row_partials
from sheepfold_server.optim.passes import decoded
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.manifest import ROW_ELEMENTS, ROWS_PER_BLOCK
from sheepfold_wire.plan import Plan

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

TORCH_DTYPES = {
    Codec.FP32: torch.float32,
    Codec.BF16: torch.bfloat16,
    Codec.FP16: torch.float16,
    Codec.INT8: torch.int8,
}


class PartLengthError(ValueError):
    """A part that is not exactly as long as plan and codec say."""

    def __init__(self, shard: int, codec: Codec, sent: int, wanted: int) -> None:
        super().__init__(
            f"the part for shard {shard} has {sent} bytes, but {codec.value} under this plan takes {wanted}; "
            "pack it again with the job's current manifest and plan"
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Views of one part's stretches, on the host. A parameter's value is what `decoded` makes of it."""

    parameters: Tensor  # (rows, 1024) in the codec's dtype
    floats: Float32  # (float statistic elements,)
    integers: Int64  # (integer statistic elements,)
    scales: Tensor | None = None  # (rows, 1) fp32 of int8, any bits


@dataclass(frozen=True, slots=True)
class PartCheck:
    """What staging learns of a part. A non-finite value leaves its block's sum non-finite."""

    sum_of_squares: Float64  # (own blocks,), in own block order
    nonfinite: dict[str, int]  # tensor name -> how many values are NaN or infinite; only tensors with some
    padding_is_zero: bool


def read_part(plan: Plan, shard: int, payload: Buffer | npt.NDArray[np.uint8], codec: Codec) -> Part:
    """Views into `payload`, without a copy; raises PartLengthError."""
    raw: npt.NDArray[np.uint8] = np.frombuffer(payload, np.uint8)
    floats_at, integers_at, wanted = plan.part_offsets(shard, codec)
    if raw.size != wanted:
        raise PartLengthError(shard, codec, raw.size, wanted)
    scales_at = plan.rows(shard) * ROW_ELEMENTS * codec.itemsize
    scales = _tensor_view(raw[scales_at:floats_at], torch.float32, 1) if codec.has_scales else None
    return Part(
        parameters=_tensor_view(raw[:scales_at], TORCH_DTYPES[codec], ROW_ELEMENTS),
        floats=raw[floats_at:integers_at].view("<f4"),
        integers=raw[integers_at:].view("<i8"),
        scales=scales,
    )


def _tensor_view(raw: npt.NDArray[np.uint8], dtype: torch.dtype, columns: int) -> Tensor:
    """(rows, columns) over the bytes of `raw`, never written to.

    torch warns of every read-only buffer, and received bytes are read-only; a ctypes array over the same
    address says nothing about it. The array holds on to `raw`, and the tensor to the array.
    """
    if raw.size == 0:
        return torch.empty((0, columns), dtype=dtype)
    array = (ctypes.c_ubyte * raw.size).from_address(raw.ctypes.data)
    array.owner = raw  # type: ignore[attr-defined]
    return torch.frombuffer(array, dtype=dtype).view(-1, columns)


def check_part(layout: ShardLayout, payload: Buffer, codec: Codec) -> PartCheck:
    """Sums of squares, non-finite values and padding of one part, in one pass over it: of the decoded values.

    Own scratch: may run in any thread. Always on the CPU, where the bytes are. Raises PartLengthError.
    """
    part = read_part(layout.plan, layout.shard, payload, codec)
    host = torch.device("cpu")
    sums = RowPartials(1, layout, host)
    for first, count in tiles(layout.rows, CPU_TILE_ROWS):
        values = cut(part.parameters, (first, count))
        if part.scales is not None:
            values = decoded(values, cut(part.scales, (first, count)))
        sums.rows(0, first, count).copy_(row_partials(values))
    is_bad = ~np.isfinite(to_host(sums.rows(0, 0, layout.rows)))
    return PartCheck(
        sum_of_squares=to_host(sums.block_sums()[0]),
        nonfinite=_nonfinite(layout, part, is_bad),
        padding_is_zero=_padding_is_zero(layout, part),
    )


def _nonfinite(layout: ShardLayout, part: Part, bad_rows: Booleans) -> dict[str, int]:
    """Counts per tensor; under int8 of whole rows. Only rows whose sum is not finite are looked at again."""
    tensors = layout.plan.manifest.tensors
    counts: dict[str, int] = {}
    held = dict(zip(*layout.partial_rows, strict=True)) if bad_rows.any() else {}
    for row in np.flatnonzero(bad_rows).tolist():
        owner = int(layout.tensor_of_row[row])
        if owner == len(layout.tensors):
            continue  # the padding at the end belongs to no tensor; it is reported as padding
        scale = None if part.scales is None else part.scales[row]
        elements = decoded(part.parameters[row], scale)[: held.get(row, ROW_ELEMENTS)]
        name = tensors[layout.tensors[owner]].name
        counts[name] = counts.get(name, 0) + int((~torch.isfinite(elements)).sum())
    for place in layout.plan.statistics(layout.shard):
        if not place.is_integer:
            values = part.floats[place.offset : place.offset + place.elements]
            if bad := values.size - int(np.isfinite(values).sum()):
                counts[tensors[place.tensor].name] = bad
    return counts


def _padding_is_zero(layout: ShardLayout, part: Part) -> bool:
    """Whether every element beyond the end of a slice is 0 (of either sign), and scales of no slice are."""
    rows, held = layout.partial_rows
    columns = torch.arange(ROW_ELEMENTS)
    for first, count in tiles(len(rows), ROWS_PER_BLOCK):
        chosen = part.parameters[torch.from_numpy(rows[first : first + count])]
        is_padding = columns >= torch.from_numpy(held[first : first + count]).unsqueeze(1)
        if bool(((chosen != 0) & is_padding).any()):
            return False
    unused = layout.plan.used_rows(layout.shard)
    return part.scales is None or not bool((part.scales[unused:] != 0).any())


def write_part(plan: Plan, shard: int, codec: Codec, out: bytearray | memoryview) -> Part:
    """Writable views of the stretches of `out`; raises PartLengthError."""
    writable: npt.NDArray[Any] = np.frombuffer(out, np.uint8)
    return read_part(plan, shard, writable, codec)
