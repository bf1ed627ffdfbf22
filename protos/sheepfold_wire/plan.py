"""Which shard holds which blocks: a pure function of manifest, shard count and two settings."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from sheepfold_wire.codecs import Codec
from sheepfold_wire.manifest import BLOCK_ELEMENTS, ROW_ELEMENTS, ROWS_PER_BLOCK, Manifest, SliceSpec

SPLIT_ABOVE_BYTES = 8 * 1024 * 1024
SHARDS_MAX = 4096
FP32_BYTES = 4
INT64_BYTES = 8


class PlanError(ValueError):
    """A plan that cannot be made: says which setting, its value, and what to give instead."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A contiguous block range of one slice on one shard.

    `slice` and `first_block` are global indices; `first_row` counts in the shard's buffer of rows,
    `first_element` in the slice. The last of its rows is zero-padded.
    """

    shard: int
    slice: int
    first_block: int
    blocks: int
    first_row: int
    elements: int
    first_element: int

    @property
    def rows(self) -> int:
        """Rows it takes in the shard's buffer."""
        return -(-self.elements // ROW_ELEMENTS)


@dataclass(frozen=True, slots=True)
class StatisticPlacement:
    """Where one statistic lies in a shard's dense fp32, or int64, concatenation; all counted in elements."""

    tensor: int
    offset: int
    elements: int
    is_integer: bool


@dataclass(frozen=True)
class Plan:
    """The total map block -> shard. Build it with `Plan.of`; equal digests mean equal byte offsets."""

    manifest: Manifest
    shard_count: int
    split_above_bytes: int
    needs_whole: frozenset[str]
    fragments: tuple[tuple[Fragment, ...], ...]
    placements: tuple[tuple[StatisticPlacement, ...], ...]

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        shard_count: int,
        split_above_bytes: int = SPLIT_ABOVE_BYTES,
        needs_whole: frozenset[str] = frozenset(),
    ) -> Plan:
        """Places every block and statistic; raises PlanError for impossible settings.

        Tensors above `split_above_bytes` of fp32 are cut first, into nearly equal block ranges over all
        shards; the others go, largest first, to the shard with the fewest bytes. Tensors named in
        `needs_whole` are never cut.
        """
        _check_settings(manifest, shard_count, split_above_bytes, needs_whole)
        loads = [0] * shard_count
        cut = {
            tensor
            for tensor in manifest.parameters
            if manifest.tensors[tensor].elements * FP32_BYTES > split_above_bytes
            and manifest.tensors[tensor].name not in needs_whole
        }
        ranges = _cut_ranges(manifest, shard_count, cut, loads) + _whole_ranges(manifest, cut, loads)
        fragments = _laid_out(manifest, shard_count, ranges)
        placements = _place_statistics(manifest, loads)
        return cls(manifest, shard_count, split_above_bytes, needs_whole, fragments, placements)

    def shard_fragments(self, shard: int) -> tuple[Fragment, ...]:
        """A shard's fragments in manifest order, which is also the order of their rows."""
        return self.fragments[shard]

    def statistics(self, shard: int) -> tuple[StatisticPlacement, ...]:
        """A shard's statistics in manifest order."""
        return self.placements[shard]

    def statistic_elements(self, shard: int, is_integer: bool) -> int:
        """Elements of a shard's fp32, or int64, statistics together."""
        return sum(place.elements for place in self.placements[shard] if place.is_integer == is_integer)

    def used_rows(self, shard: int) -> int:
        """Rows that hold elements."""
        last = self.fragments[shard][-1:]
        return last[0].first_row + last[0].rows if last else 0

    def rows(self, shard: int) -> int:
        """Rows of the shard's buffer: `used_rows` padded to whole blocks of 64."""
        return -(-self.used_rows(shard) // ROWS_PER_BLOCK) * ROWS_PER_BLOCK

    def part_offsets(self, shard: int, codec: Codec) -> tuple[int, int, int]:
        """Bytes before a part's float statistics, before its integer ones, and of the whole payload.

        A part is, little endian: all parameter rows with their padding in the codec's dtype; under a codec
        that has scales one of fp32 for each of these rows; then the float statistics as fp32; then the
        integer statistics as int64.
        """
        floats_at = self.rows(shard) * codec.row_bytes
        integers_at = floats_at + FP32_BYTES * self.statistic_elements(shard, is_integer=False)
        end = integers_at + INT64_BYTES * self.statistic_elements(shard, is_integer=True)
        return floats_at, integers_at, end

    def part_bytes(self, shard: int, codec: Codec) -> int:
        """Length of a part's payload, exactly."""
        return self.part_offsets(shard, codec)[-1]

    @cached_property
    def split_slices(self) -> frozenset[int]:
        """Slices with blocks on more than one shard: their norms need an exchange."""
        owner: dict[int, int] = {}
        split: set[int] = set()
        for fragments in self.fragments:
            for fragment in fragments:
                if owner.setdefault(fragment.slice, fragment.shard) != fragment.shard:
                    split.add(fragment.slice)
        return frozenset(split)

    @cached_property
    def digest(self) -> str:
        """SHA-256 hex of what the plan is a function of."""
        inputs = [self.manifest.digest, self.shard_count, self.split_above_bytes, sorted(self.needs_whole)]
        return hashlib.sha256(json.dumps(inputs, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _BlockRange:
    """Blocks of one slice on one shard, not yet given rows; `first` counts within the slice."""

    shard: int
    slice: int
    first: int
    blocks: int


def _check_settings(
    manifest: Manifest, shard_count: int, split_above_bytes: int, whole: frozenset[str]
) -> None:
    if not 1 <= shard_count <= SHARDS_MAX:
        raise PlanError(f"shard_count={shard_count}: give 1 to {SHARDS_MAX} shards")
    if split_above_bytes < 0:
        raise PlanError(
            f"split_above_bytes={split_above_bytes}: give 0 or more bytes, e.g. {SPLIT_ABOVE_BYTES}"
        )
    if unknown := sorted(whole - {manifest.tensors[i].name for i in manifest.parameters}):
        raise PlanError(f"needs_whole names {unknown[0]!r}, no parameter of the manifest: correct or drop it")


def _slices_by_tensor(manifest: Manifest) -> dict[int, list[SliceSpec]]:
    found: dict[int, list[SliceSpec]] = {tensor: [] for tensor in manifest.parameters}
    for piece in manifest.slices:
        found[piece.tensor].append(piece)
    return found


def _cut_ranges(manifest: Manifest, shard_count: int, cut: set[int], loads: list[int]) -> list[_BlockRange]:
    """Each tensor of `cut` over all shards; adds the bytes to `loads`."""
    slices = _slices_by_tensor(manifest)
    found: list[_BlockRange] = []
    for tensor in sorted(cut):
        blocks = sum(piece.blocks for piece in slices[tensor])
        for shard in range(shard_count):
            first, end = shard * blocks // shard_count, (shard + 1) * blocks // shard_count
            for piece, start, count in _within_slices(slices[tensor], first, end):
                found.append(_BlockRange(shard, piece.index, start, count))
                loads[shard] += _range_rows(piece, start, count) * ROW_ELEMENTS * FP32_BYTES
    return found


def _within_slices(slices: list[SliceSpec], first: int, end: int) -> Iterator[tuple[SliceSpec, int, int]]:
    """Cuts the tensor's blocks [first, end) at slice borders: (slice, first block in it, blocks)."""
    before = 0
    for piece in slices:
        start, stop = max(first - before, 0), min(end - before, piece.blocks)
        if start < stop:
            yield piece, start, stop - start
        before += piece.blocks


def _range_rows(piece: SliceSpec, first: int, blocks: int) -> int:
    return min(piece.rows - first * ROWS_PER_BLOCK, blocks * ROWS_PER_BLOCK)


def _whole_ranges(manifest: Manifest, cut: set[int], loads: list[int]) -> list[_BlockRange]:
    """Each other tensor whole, largest first, ties in manifest order; adds the bytes to `loads`."""
    slices = _slices_by_tensor(manifest)
    sizes = {tensor: sum(piece.rows for piece in slices[tensor]) for tensor in slices if tensor not in cut}
    found: list[_BlockRange] = []
    for tensor, shard in _greedy({t: rows * ROW_ELEMENTS * FP32_BYTES for t, rows in sizes.items()}, loads):
        found += [
            _BlockRange(shard, piece.index, 0, piece.blocks) for piece in slices[tensor] if piece.blocks
        ]
    return found


def _greedy(sizes: dict[int, int], loads: list[int]) -> Iterator[tuple[int, int]]:
    """(tensor, shard), largest first to the least loaded shard, ties to the lowest; adds to `loads`."""
    heap = [(load, shard) for shard, load in enumerate(loads)]
    heapq.heapify(heap)
    for tensor in sorted(sizes, key=lambda tensor: (-sizes[tensor], tensor)):
        load, shard = heapq.heappop(heap)
        loads[shard] = load + sizes[tensor]
        heapq.heappush(heap, (loads[shard], shard))
        yield tensor, shard


def _laid_out(
    manifest: Manifest, shard_count: int, ranges: list[_BlockRange]
) -> tuple[tuple[Fragment, ...], ...]:
    """Gives the ranges rows, shard by shard in manifest order."""
    shards: list[list[Fragment]] = [[] for _ in range(shard_count)]
    next_row = [0] * shard_count
    for part in sorted(ranges, key=lambda part: (part.slice, part.first)):
        piece = manifest.slices[part.slice]
        first_element = part.first * BLOCK_ELEMENTS
        elements = min(piece.elements - first_element, part.blocks * BLOCK_ELEMENTS)
        fragment = Fragment(
            shard=part.shard,
            slice=part.slice,
            first_block=manifest.first_block(part.slice) + part.first,
            blocks=part.blocks,
            first_row=next_row[part.shard],
            elements=elements,
            first_element=first_element,
        )
        shards[part.shard].append(fragment)
        next_row[part.shard] += fragment.rows
    return tuple(map(tuple, shards))


def _place_statistics(manifest: Manifest, loads: list[int]) -> tuple[tuple[StatisticPlacement, ...], ...]:
    """Each statistic whole, largest first to the least loaded shard; offsets in manifest order."""
    tensors = manifest.tensors
    sizes = {
        i: tensors[i].elements * (INT64_BYTES if tensors[i].is_integer else FP32_BYTES)
        for i in manifest.statistics
        if tensors[i].elements
    }
    shards: list[list[StatisticPlacement]] = [[] for _ in loads]
    used = {(shard, is_integer): 0 for shard in range(len(loads)) for is_integer in (False, True)}
    for i, shard in sorted(_greedy(sizes, loads)):
        key = shard, tensors[i].is_integer
        shards[shard].append(StatisticPlacement(i, used[key], tensors[i].elements, tensors[i].is_integer))
        used[key] += tensors[i].elements
    return tuple(map(tuple, shards))
