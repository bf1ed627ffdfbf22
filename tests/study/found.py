"""What stored results say of the cells of a table: intervals, differences, and where a batch stops to pay.

Pure functions of cells and results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.study.intervals import Interval, interval, paired
from tests.study.plan import Cell
from tests.study.runs import Result
from tests.study.store import Store
from tests.study.tasks import MEASURES, Measure


@dataclass(frozen=True, slots=True)
class Found:
    """A cell with its results, one for each seed."""

    cell: Cell
    results: tuple[Result, ...]

    @property
    def measure(self) -> Measure:
        return MEASURES[self.cell.runs[0].task]

    @property
    def batch(self) -> int:
        return self.cell.runs[0].batch

    @property
    def values(self) -> list[float]:
        return [result.value for result in self.results]

    @property
    def value(self) -> Interval:
        return interval(self.values)

    @property
    def seconds(self) -> Interval:
        return interval([result.seconds for result in self.results])

    @property
    def noise_scale(self) -> Interval | None:
        """None where it is not defined for every seed."""
        scales = [result.noise_scale for result in self.results]
        known = [scale for scale in scales if scale is not None]
        return interval(known) if len(known) == len(scales) else None

    @property
    def staleness(self) -> float:
        """Versions behind, over all slots of all seeds."""
        return sum(result.staleness for result in self.results) / len(self.results)

    @property
    def skipped(self) -> int:
        return sum(result.skipped for result in self.results)


def found(cells: Sequence[Cell], store: Store) -> list[Found]:
    return [Found(cell, tuple(store[run] for run in cell.runs)) for cell in cells]


def by_series(cells: Sequence[Found]) -> dict[str, list[Found]]:
    series: dict[str, list[Found]] = {}
    for one in cells:
        series.setdefault(one.cell.series, []).append(one)
    return series


def better_by(ours: Found, theirs: Found) -> Interval:
    """By how much `ours` is better, seed by seed; negative where it is worse."""
    difference = paired(ours.values, theirs.values)
    if ours.measure.is_better_above:
        return difference
    return Interval(-difference.mean, difference.deviation, difference.half, difference.count)


def scales_to(points: Sequence[Found]) -> tuple[int, bool]:
    """(the largest batch up to which no mean is worse than the best by more than the tolerance, whether some
    larger batch was tried). `points` by ascending batch."""
    reached = points[0].batch
    for upto in range(1, len(points) + 1):
        means = [point.value.mean for point in points[:upto]]
        if not is_within(means[-1], means, points[0].measure):
            break
        reached = points[upto - 1].batch
    return reached, reached < points[-1].batch


def is_within(mean: float, means: Sequence[float], measure: Measure) -> bool:
    """Whether a mean is no worse than the best of them by more than the tolerance."""
    if measure.is_better_above:
        return mean >= max(means) - measure.tolerance
    return mean <= min(means) + measure.tolerance


def verdict(difference: Interval, is_better: str, is_worse: str, is_open: str) -> str:
    """The sentence that the interval allows."""
    if not difference.excludes_zero:
        return is_open
    return is_better if difference.mean > 0 else is_worse
