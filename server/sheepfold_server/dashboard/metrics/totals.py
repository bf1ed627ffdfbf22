"""Sums over all steps that this process has seen of a job: what a status does not tell."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import sheepfold_wire.messages as m

PHASES = ("wait", "prepare", "commit", "update")
DURATION_BOUNDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    100.0,
    300.0,
)
"""Seconds."""
RATIO_BOUNDS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 0.5, 0.8, 1.0, 1.25, 2.0, 3.0, 10.0, 100.0)


class Distribution:
    """Counts of values by upper bound, as Prometheus wants them."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, values: Iterable[float]) -> None:
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += 1
            self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, values up to it), the last one without bound."""
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        total, found = 0, []
        for name, count in zip(names, self._counts, strict=True):
            total += count
            found.append((name, float(total)))
        return found


class Totals:
    """Told of every step of a job."""

    def __init__(self) -> None:
        self.seconds = {phase: Distribution(DURATION_BOUNDS) for phase in PHASES}
        self.ratios = Distribution(RATIO_BOUNDS)
        self.bytes_in = self.bytes_out = 0
        self.reports_lost = 0
        """Steps whose report never came: this process was too slow, or away for too long."""
        self._version = 0

    def step(self, report: m.StepReport) -> None:
        self.seconds["wait"].add([report.wait_seconds])
        self.seconds["prepare"].add([report.prepare_seconds])
        self.seconds["commit"].add([report.commit_seconds])
        self.seconds["update"].add([max(0.0, report.apply_seconds - report.commit_seconds)])
        self.ratios.add(s.trust_ratio for s in report.slices if s.trust_ratio < float("inf"))
        self.bytes_in += report.bytes_in
        self.bytes_out += report.bytes_out
        if self._version:
            self.reports_lost += max(0, report.version - self._version - 1)
        self._version = report.version
