"""A job's tensors spread over shards and driven through whole steps, without coordinator or network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tests.oracle.settings import optimizer_of

from sheepfold_server.optim.kernel import EagerKernel, Kernel
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.optim.steps import SliceReport, SliceTotals
from sheepfold_wire.codecs import Codec, decode, encode
from sheepfold_wire.digest import combine_digests
from sheepfold_wire.int8 import encode_rows, row_keys
from sheepfold_wire.manifest import ROW_ELEMENTS, ROWS_PER_BLOCK, Manifest
from sheepfold_wire.optimizer import OptimizerKeys
from sheepfold_wire.plan import Plan
from sheepfold_wire.samples import slot_seed
from sheepfold_wire.sums import add_in_order

Values = Mapping[str, npt.NDArray[np.generic]]


def pack(plan: Plan, shard: int, values: Values, codec: Codec = Codec.FP32, seed: int = 0) -> bytes:
    """The part of `values` (tensor name -> array) for one shard; `seed`: of the noise of int8."""
    rows = np.zeros(plan.rows(shard) * ROW_ELEMENTS, np.float32)
    for f in plan.shard_fragments(shard):
        piece = plan.manifest.slices[f.slice]
        flat = np.asarray(values[plan.manifest.tensors[piece.tensor].name], np.float32).reshape(-1)
        start = piece.first_element + f.first_element
        rows[f.first_row * ROW_ELEMENTS :][: f.elements] = flat[start : start + f.elements]
    out = bytearray(rows.size * codec.itemsize)
    if codec.has_scales:
        out += _encoded_rows(plan, shard, rows, np.frombuffer(out, np.int8), seed)
    else:
        encode(codec, rows, out)
    for is_integer, dtype in ((False, "<f4"), (True, "<i8")):
        for place in plan.statistics(shard):
            if place.is_integer == is_integer:
                out += np.asarray(values[plan.manifest.tensors[place.tensor].name]).astype(dtype).tobytes()
    return bytes(out)


def _encoded_rows(
    plan: Plan, shard: int, rows: npt.NDArray[np.float32], out: npt.NDArray[np.int8], seed: int
) -> bytes:
    """Fills `out`; the scales of all rows."""
    scales = np.zeros(plan.rows(shard), np.float32)
    for f in plan.shard_fragments(shard):
        own = slice(f.first_row * ROW_ELEMENTS, (f.first_row + f.rows) * ROW_ELEMENTS)
        keys = row_keys(seed, f.first_block * ROWS_PER_BLOCK, f.rows)
        encode_rows(rows[own], keys, out[own], scales[f.first_row : f.first_row + f.rows])
    return scales.tobytes()


def unpack(
    plan: Plan, parts: Sequence[bytes], codec: Codec = Codec.FP32
) -> dict[str, npt.NDArray[np.generic]]:
    """All tensors of all shards' parts, in their shapes; parameters as fp32."""
    tensors = plan.manifest.tensors
    found = {t.name: np.zeros(t.elements, np.int64 if t.is_integer else np.float32) for t in tensors}
    for shard, part in enumerate(parts):
        end = plan.rows(shard) * ROW_ELEMENTS * codec.itemsize
        rows = decode(codec, part[:end])
        for f in plan.shard_fragments(shard):
            piece = plan.manifest.slices[f.slice]
            start = piece.first_element + f.first_element
            values = rows[f.first_row * ROW_ELEMENTS :][: f.elements]
            found[tensors[piece.tensor].name][start : start + f.elements] = values
        for place in plan.statistics(shard):
            floats = 4 * plan.statistic_elements(shard, False)
            at = end + (floats + 8 * place.offset if place.is_integer else 4 * place.offset)
            dtype = "<i8" if place.is_integer else "<f4"
            found[tensors[place.tensor].name][:] = np.frombuffer(part, dtype, place.elements, at)
    return {t.name: found[t.name].reshape(t.shape) for t in tensors}


@dataclass
class Job:
    """All shards of one job, and the little a coordinator adds: totals of split slices, the clip scale."""

    plan: Plan
    shards: list[ShardTensors]
    optimizer: OptimizerKeys

    @classmethod
    def start(
        cls,
        manifest: Manifest,
        values: Values,
        shard_count: int = 1,
        optimizer: OptimizerKeys | None = None,
        split_above_bytes: int = 2**23,
        tile_rows: int = 256,
        device: str = "cpu",
        kernel: Kernel | None = None,
    ) -> Job:
        plan = Plan.of(manifest, shard_count, split_above_bytes)
        optimizer = optimizer or optimizer_of()
        kernel = kernel or EagerKernel(device, tile_rows)
        shards = [ShardTensors(plan, s, optimizer, kernel) for s in range(shard_count)]
        for s, shard in enumerate(shards):
            shard.load(pack(plan, s, values))
        return cls(plan, shards, optimizer)

    def step(
        self,
        t: int,
        contributions: Sequence[Values],
        learning_rate: float = 0.01,
        factors: Sequence[float] | None = None,
        codec: Codec = Codec.FP32,
        absent: frozenset[str] = frozenset(),
    ) -> dict[str, SliceReport]:
        """One committed step; reports by slice name."""
        factors = factors or [1.0] * len(contributions)
        present = np.array([tensor.name not in absent for tensor in self.plan.manifest.tensors])
        blocks = np.zeros((3, self.plan.manifest.block_count))
        for s, shard in enumerate(self.shards):
            shard.begin(t)
            parts = [
                pack(self.plan, s, values, codec, slot_seed(0, t, k))
                for k, values in enumerate(contributions)
            ]
            shard.fold(t, [(part, codec, factor) for part, factor in zip(parts, factors, strict=True)])
            blocks[0][shard.layout.blocks] = shard.finish(t, sum(factors)).sum_of_squares
        scale = self._clip_scale(add_in_order(blocks[0].tolist()))
        for shard in self.shards:
            report = shard.directions(t, learning_rate, scale, present)
            blocks[1][shard.layout.blocks] = report.weight_partials
            blocks[2][shard.layout.blocks] = report.update_partials
        totals = {index: self._totals(blocks, index) for index in self.plan.split_slices}
        reports = [r for shard in self.shards for r in shard.apply(t, learning_rate, totals)[0]]
        return {self.plan.manifest.slices[r.slice].name: r for r in sorted(reports, key=lambda r: r.slice)}

    def _clip_scale(self, gradient_squares: float) -> float:
        limit = self.optimizer.clip_norm
        return 1.0 if limit is None else 1.0 / max(1.0, math.sqrt(gradient_squares) / limit)

    def _totals(self, blocks: npt.NDArray[np.float64], index: int) -> SliceTotals:
        first = self.plan.manifest.first_block(index)
        own = blocks[:, first : first + self.plan.manifest.slices[index].blocks]
        gradient, weight, update = (add_in_order(row.tolist()) for row in own)
        if getattr(self.optimizer, "norm_ord", "2") == "inf":
            weight, update = own[1].max(), own[2].max()
        return SliceTotals(weight, update, gradient)

    def values(self, codec: Codec = Codec.FP32) -> dict[str, npt.NDArray[np.generic]]:
        """The current version."""
        return unpack(self.plan, [shard.encoded(codec) for shard in self.shards], codec)

    def digest(self) -> str:
        """One digest of the whole state."""
        return combine_digests(entry for shard in self.shards for entry in shard.block_digests())
