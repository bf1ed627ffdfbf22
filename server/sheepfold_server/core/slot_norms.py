"""Norms of the single contributions of a step, which tell its noise beside the norm of their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.decide import squares_in_order
from sheepfold_wire.sums import add_in_order


@dataclass(frozen=True, slots=True)
class SlotNorms:
    """L2, unclipped. Empty where a shard has not said what the contributions' norms are."""

    of_slot: tuple[float, ...] = ()
    of_slice: dict[int, float] = field(default_factory=dict)
    """Root of the mean over the slots of their squared norms."""
    root_mean_square: float = 0.0
    """The same over all slices."""


def slot_norms(
    attempts: Sequence[Attempt],
    blocks_of_shard: Sequence[Sequence[int]],
    slice_of_block: Sequence[int],
    frozen: frozenset[int],
) -> SlotNorms:
    """`frozen`: blocks that the step leaves as they are; their gradient is no part of any norm."""
    if not attempts or any(len(attempt.squares) < len(blocks_of_shard) for attempt in attempts):
        return SlotNorms()
    sums: list[float] = []
    together = [0.0] * len(slice_of_block)
    for attempt in attempts:
        squares = squares_in_order(attempt.squares, blocks_of_shard, frozen)
        sums.append(add_in_order(squares))
        together = [total + own for total, own in zip(together, squares, strict=True)]
    by_slice: dict[int, float] = {}
    for block, value in enumerate(together):
        by_slice[slice_of_block[block]] = by_slice.get(slice_of_block[block], 0.0) + value
    count = len(attempts)
    return SlotNorms(
        of_slot=tuple(math.sqrt(value) for value in sums),
        of_slice={index: math.sqrt(value / count) for index, value in by_slice.items()},
        root_mean_square=math.sqrt(add_in_order(sums) / count),
    )
