"""The decision on a step: pure functions of what the shards prepared and the configuration in force."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_wire.job import Job
from sheepfold_wire.optimizer import OptimizerKeys
from sheepfold_wire.schedule import learning_rate
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


def squares_in_order(
    squares: Mapping[int, Sequence[float]],
    blocks_of_shard: Sequence[Sequence[int]],
    frozen: frozenset[int] = frozenset(),
) -> list[float]:
    """Sums of squares of all blocks of the model by global block index, from those of each shard's own.

    `frozen`: blocks that the step leaves as they are; their gradient is no part of any norm.
    """
    ordered = [0.0] * sum(map(len, blocks_of_shard))
    for shard, own in squares.items():
        for block, value in zip(blocks_of_shard[shard], own, strict=True):
            ordered[block] = 0.0 if block in frozen else value
    return ordered


def decide(step: int, job: Job, reports: Iterable[m.Prepared], block_squares: Sequence[float]) -> Decision:
    """Apply or skip step t, its learning rate and its clip scale; the latter is 1 if each slot was clipped.

    The gradient norm is over all blocks in manifest order in fp64, so it does not depend on the plan.
    """
    rate = learning_rate(job, step)
    norm = math.sqrt(add_in_order(block_squares))
    prepared = list(reports)
    if not math.isfinite(norm) or not all(report.is_finite for report in prepared):
        return Decision(True, "the summed gradient is not finite", rate, 1.0, norm)
    optimizer = job.optimizer
    scale = 1.0
    if optimizer.clip_place == "sum":
        scale = clip_scale(norm, optimizer.clip_norm, optimizer.clip_form)
    largest = max((report.max_abs for report in prepared), default=0.0) * scale
    if largest > MAX_ABS_APPLIED:
        return Decision(
            True, f"the largest gradient element is {largest:.3g}, above {MAX_ABS_APPLIED:g}", rate, 1.0, norm
        )
    return Decision(False, "", rate, scale, norm)


def slot_clip(
    optimizer: OptimizerKeys,
    squares: Mapping[int, Sequence[float]],
    blocks_of_shard: Sequence[Sequence[int]],
    frozen: frozenset[int] = frozenset(),
) -> float:
    """Scale of one slot's gradient by its own norm, over all blocks in order; 1 if the sum is clipped."""
    if optimizer.clip_place != "slot" or optimizer.clip_norm is None:
        return 1.0
    norm = math.sqrt(add_in_order(squares_in_order(squares, blocks_of_shard, frozen)))
    return clip_scale(norm, optimizer.clip_norm, optimizer.clip_form)


def clip_scale(norm: float, clip_norm: float | None, form: str) -> float:
    """Factor that keeps a gradient of this norm at `clip_norm` or below; 1 without one.

    `apex`: 1 / max(1, norm / c). `torch`: min(1, c / (norm + 1e-6)), which clips a little early. `deepspeed`:
    1 / max(1, (norm + 1e-6) / c).
    """
    if clip_norm is None:
        return 1.0
    if form == "torch":
        return min(1.0, clip_norm / (norm + 1e-6))
    return 1.0 / max(1.0, (norm + (1e-6 if form == "deepspeed" else 0.0)) / clip_norm)


def union_of_presence(bitmaps: Iterable[bytes]) -> bytes:
    """Tensors present in at least one contribution."""
    together = bytearray()
    for bitmap in bitmaps:
        together.extend(b"\0" * (len(bitmap) - len(together)))
        for index, byte in enumerate(bitmap):
            together[index] |= byte
    return bytes(together)


def without(bitmap: bytes, tensors: Iterable[int]) -> bytes:
    """A bitmap of presence in which these tensors are absent."""
    cleared = bytearray(bitmap)
    for index in tensors:
        if index // 8 < len(cleared):
            cleared[index // 8] &= ~(1 << index % 8)
    return bytes(cleared)


def totals_in_order(
    reports: Iterable[m.Norms],
    slice_of_block: Sequence[int],
    gradient_squares: Sequence[float],  # of all blocks, by global index
    maximum_slices: frozenset[int],  # slices whose norms are of order inf
) -> tuple[m.SliceTotals, ...]:
    """Partials of each split slice, in block order whichever shard sent them: added, or the largest."""
    blocks = sorted((b for report in reports for b in report.blocks), key=lambda b: b.block)
    by_slice: dict[int, list[m.BlockNorms]] = {}
    for block in blocks:
        by_slice.setdefault(slice_of_block[block.block], []).append(block)
    totals: list[m.SliceTotals] = []
    for index, found in sorted(by_slice.items()):
        combine = max if index in maximum_slices else add_in_order
        weight, update = [b.weight_partial for b in found], [b.update_partial for b in found]
        gradient = add_in_order([gradient_squares[b.block] for b in found])
        totals.append(m.SliceTotals(index, combine(weight), combine(update), gradient))
    return tuple(totals)
