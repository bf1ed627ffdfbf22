"""Which ranges of old parts make up a new one: a pure function of two plans of one manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sheepfold_server.storage.checkpoints.parts import own_tensors
from sheepfold_wire.manifest import ROW_ELEMENTS
from sheepfold_wire.plan import Fragment, Plan


@dataclass(frozen=True, slots=True)
class Copy:
    """`count` rows, or elements, from `source` on in `old_shard`'s part to `target` on in the new part."""

    old_shard: int
    source: int
    target: int
    count: int


def row_copies(old: Plan, new: Plan, shard: int) -> Iterator[Copy]:
    """Rows of the new shard, ascending, each once; ranges that adjoin on both sides are one."""
    by_slice: dict[int, list[Fragment]] = {}
    for fragments in old.fragments:
        for fragment in fragments:
            by_slice.setdefault(fragment.slice, []).append(fragment)
    pending: Copy | None = None
    for fragment in new.shard_fragments(shard):
        for piece in sorted(by_slice[fragment.slice], key=lambda piece: piece.first_element):
            copy = _overlap(piece, fragment)
            if copy is None:
                continue
            if pending is not None and _adjoins(pending, copy):
                pending = replace(pending, count=pending.count + copy.count)
                continue
            if pending is not None:
                yield pending
            pending = copy
    if pending is not None:
        yield pending


def _overlap(old: Fragment, new: Fragment) -> Copy | None:
    """Rows that two fragments of one slice share. Both begin at a block, hence at a row."""
    first = max(old.first_element, new.first_element)
    end = min(old.first_element + old.elements, new.first_element + new.elements)
    if first >= end:
        return None
    source = old.first_row + (first - old.first_element) // ROW_ELEMENTS
    target = new.first_row + (first - new.first_element) // ROW_ELEMENTS
    return Copy(old.shard, source, target, -(-(end - first) // ROW_ELEMENTS))


def _adjoins(left: Copy, right: Copy) -> bool:
    return (right.old_shard, right.source, right.target) == (
        left.old_shard,
        left.source + left.count,
        left.target + left.count,
    )


def statistic_copies(old: Plan, new: Plan, shard: int, is_integer: bool) -> Iterator[Copy]:
    """Elements of the new shard's fp32, or int64, statistics, one range for each statistic."""
    places = {
        place.tensor: (old_shard, place.offset)
        for old_shard, placed in enumerate(old.placements)
        for place in placed
    }
    for place in new.statistics(shard):
        if place.is_integer == is_integer:
            old_shard, offset = places[place.tensor]
            yield Copy(old_shard, offset, place.offset, place.elements)


def step_copies(old: Plan, new: Plan, shard: int) -> Iterator[Copy]:
    """Places of applied_steps: of a tensor that was cut, one of each of its old shards, which must agree."""
    target = {tensor: i for i, tensor in enumerate(own_tensors(new, shard))}
    for old_shard in range(old.shard_count):
        for source, tensor in enumerate(own_tensors(old, old_shard)):
            if tensor in target:
                yield Copy(old_shard, source, target[tensor], 1)
