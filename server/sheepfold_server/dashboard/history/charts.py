"""Which rows a chart of a range is made of: the finest that are kept all over it and are not too many."""

from __future__ import annotations

from dataclasses import dataclass

from sheepfold_server.dashboard.history.lineages import Lineage
from sheepfold_server.dashboard.history.rows import Floats, Rows, joined, merged
from sheepfold_server.dashboard.history.tables import LEVELS, Scalars, Slices, Tables

ROWS_PER_POINT = 4
"""Rows read for one point at most: the factor between two levels."""
ROWS_AT_ONCE = 512
"""Rows that are never too many."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How much of each lineage is kept. With 400 slices a step is 16 kB and a roll-up 24 kB."""

    steps: int = 2_000
    """Newest steps, whole."""
    flagged: int = 10_000
    """Newest flagged steps (skip, clamp begun or ended, alert), whole."""
    rollups: int = 16_384
    """Newest roll-ups of each level."""
    events: int = 100_000
    """Newest events."""
    lineages: int = 32
    """Newest lineages of each job."""
    jobs: int = 256
    """Jobs: of more, the one that nothing was heard of for longest makes room."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Rows of a range, and how many steps each is made of."""

    rows: Rows
    steps_per_point: int


@dataclass(frozen=True, slots=True)
class Window:
    """What a chart is asked for: the steps in [first, last] (None: all) in at most so many points."""

    first: int | None
    last: int | None
    points: int
    rows_per_point: int = ROWS_PER_POINT


def chart(tables: Tables, wanted: Scalars | Slices, kept: Kept, window: Window) -> Chart:
    """The rows of a window.

    A row's first step is a multiple of its length, so that rows stay the same while others are added; the
    first and last row may reach beyond the range.
    """
    lineage = wanted.lineage
    begin = max(lineage.first, 0 if window.first is None else window.first)
    end = min(lineage.newest, lineage.newest if window.last is None else window.last)
    if lineage.newest < 0 or end < begin:
        return Chart(joined((), wanted.width()), 1)
    level, length = _resolution(lineage, kept, begin, end, window)
    rows = _rows(tables, wanted, level, begin // length * length, end)
    return Chart(merged(rows, length), length)


def _resolution(lineage: Lineage, kept: Kept, begin: int, end: int, window: Window) -> tuple[int, int]:
    """(level, steps per point); level -1 is whole steps."""
    points, rows_most = window.points, max(ROWS_AT_ONCE, window.rows_per_point * window.points)
    for level, unit in enumerate((1, *LEVELS), start=-1):
        oldest = (
            lineage.newest - kept.steps + 1 if level < 0 else (lineage.newest // unit - kept.rollups) * unit
        )
        is_kept = begin >= oldest or oldest <= lineage.first
        if is_kept and _buckets(begin, end, unit) <= rows_most:
            break
    length = unit * -(-_buckets(begin, end, unit) // points)
    while _buckets(begin, end, length) > points:
        length += unit
    return level, length


def _buckets(begin: int, end: int, length: int) -> int:
    return end // length - begin // length + 1


def _rows(tables: Tables, wanted: Scalars | Slices, level: int, begin: int, end: int) -> Rows:
    if level < 0:
        return tables.steps(wanted, begin, end)
    newest = wanted.lineage.newest
    opened = newest // LEVELS[level] * LEVELS[level]
    parts = [tables.rollups(wanted, level, begin, min(end, opened - 1))]
    if end >= opened:
        unfinished = tables.open_rows(wanted, level, newest)
        parts.append(unfinished.chosen(unfinished.step <= end))
    return joined(parts, wanted.width())


def heat(values: Floats, value: int) -> Floats:
    """(slices, columns) of the first or second value read, from (columns, slices * 2)."""
    return values[:, value::2].T
