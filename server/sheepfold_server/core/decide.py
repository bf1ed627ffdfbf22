"""The decision on a step: pure functions of what the shards prepared and the configuration in force."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.schedule import learning_rate
from sheepfold_wire.job import Job
from sheepfold_wire.sums import add_in_order

MAX_ABS_APPLIED = 1e15
"""A larger element would square to more than fp32 holds; such a step is skipped (lamb.md section 6)."""


@dataclass(frozen=True, slots=True)
class Decision:
    is_skip: bool
    reason: str
    learning_rate: float
    clip_scale: float
    gradient_norm: float


def blocks_in_order(
    reports: dict[int, m.Prepared], blocks_of_shard: Sequence[Sequence[int]], block_count: int
) -> list[float]:
    """Sums of squares of all blocks of the model, by global block index."""
    squares = [0.0] * block_count
    for shard, report in reports.items():
        for block, value in zip(blocks_of_shard[shard], report.sum_of_squares, strict=True):
            squares[block] = value
    return squares


def decide(step: int, job: Job, reports: Iterable[m.Prepared], block_squares: Sequence[float]) -> Decision:
    """Apply or skip step t, its learning rate and its clip scale 1 / max(1, norm / clip_norm).

    The gradient norm is over all blocks in manifest order in fp64, so it does not depend on the plan.
    """
    rate = learning_rate(job.optimizer.lr, step, job.stop.steps)
    norm = math.sqrt(add_in_order(block_squares))
    prepared = list(reports)
    if not math.isfinite(norm) or not all(report.is_finite for report in prepared):
        return Decision(True, "the summed gradient is not finite", rate, 1.0, norm)
    clip = job.optimizer.clip_norm
    scale = 1.0 if clip is None else 1.0 / max(1.0, norm / clip)
    largest = max((report.max_abs for report in prepared), default=0.0) * scale
    if largest > MAX_ABS_APPLIED:
        return Decision(
            True, f"the largest gradient element is {largest:.3g}, above {MAX_ABS_APPLIED:g}", rate, 1.0, norm
        )
    return Decision(False, "", rate, scale, norm)


def union_of_presence(bitmaps: Iterable[bytes]) -> bytes:
    """Tensors present in at least one contribution."""
    together = bytearray()
    for bitmap in bitmaps:
        together.extend(b"\0" * (len(bitmap) - len(together)))
        for index, byte in enumerate(bitmap):
            together[index] |= byte
    return bytes(together)


def totals_in_order(reports: Iterable[m.Norms], slice_of_block: Sequence[int]) -> tuple[m.SliceTotals, ...]:
    """Sums over the blocks of each split slice, added in block order whichever shard sent them."""
    blocks = sorted((b for report in reports for b in report.blocks), key=lambda b: b.block)
    by_slice: dict[int, list[m.BlockNorms]] = {}
    for block in blocks:
        by_slice.setdefault(slice_of_block[block.block], []).append(block)
    return tuple(
        m.SliceTotals(
            index,
            add_in_order([b.weight_squares for b in found]),
            add_in_order([b.update_squares for b in found]),
        )
        for index, found in sorted(by_slice.items())
    )
