"""Which lineages of which jobs the history knows, and the names of their slices and metrics."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import sheepfold_wire.messages as m

STEP_BITS = 40
STEP_LAST = (1 << STEP_BITS) - 1
METRICS_MAX = 256


@dataclass(slots=True)
class Lineage:
    """What must be known of a lineage to add its next step."""

    id: int
    job: str
    name: str
    slices: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    first: int = -1
    newest: int = -1
    """First and newest step; -1 before one."""
    samples: float = 0.0
    """Samples committed up to the newest step."""
    pruned: int = 0
    """Steps before this one are gone, but for flagged ones."""
    runs: NDArray[np.int64] | None = None
    """Newest applied steps in a row that each slice met a bound; None until it is read from kept ones."""

    def key(self, step: int) -> int:
        """Key of a step in the table of steps."""
        return self.id << STEP_BITS | min(max(step, 0), STEP_LAST)


class Lineages:
    """All lineages, by job, oldest first. Not thread-safe: `History` has the lock."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._jobs: dict[str, dict[str, Lineage]] = {}
        for number, job, name in connection.execute("SELECT id, job, lineage FROM lineages ORDER BY id"):
            self._jobs.setdefault(job, {})[name] = self._read(Lineage(number, job, name))

    def of(self, job: str) -> list[Lineage]:
        """A job's lineages, oldest first."""
        return list(self._jobs.get(job, {}).values())

    def jobs(self) -> list[str]:
        return sorted(self._jobs)

    def find(self, job: str, name: str) -> Lineage | None:
        return self._jobs.get(job, {}).get(name)

    def begin(self, job: str, name: str) -> Lineage:
        cursor = self._connection.execute("INSERT INTO lineages(job, lineage) VALUES (?, ?)", (job, name))
        lineage = Lineage(cursor.lastrowid or 0, job, name)
        self._jobs.setdefault(job, {})[name] = lineage
        return lineage

    def forget(self, lineage: Lineage) -> None:
        """Drop it from the list; its rows are the caller's to delete."""
        of_job = self._jobs[lineage.job]
        del of_job[lineage.name]
        if not of_job:
            del self._jobs[lineage.job]
        for table, column in (("names", "lineage"), ("lineages", "id")):
            self._connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (lineage.id,))

    def learn(self, lineage: Lineage, report: m.StepReport) -> None:
        """Take in names that a report is the first to use."""
        known = len(lineage.slices)
        last = max((s.slice for s in report.slices), default=-1)
        if last >= known:
            lineage.slices.extend(f"slice {number}" for number in range(known, last + 1))
            for s in report.slices:
                if s.slice >= known:
                    lineage.slices[s.slice] = s.name
            self._write(lineage, "slice", lineage.slices, known)
        fresh = [metric.name for metric in report.metrics if metric.name not in lineage.metrics]
        if fresh:
            known = len(lineage.metrics)
            lineage.metrics.extend(fresh[: METRICS_MAX - known])
            self._write(lineage, "metric", lineage.metrics, known)

    def _write(self, lineage: Lineage, kind: str, names: list[str], first: int) -> None:
        self._connection.executemany(
            "INSERT INTO names(lineage, kind, position, name) VALUES (?, ?, ?, ?)",
            [(lineage.id, kind, position, names[position]) for position in range(first, len(names))],
        )

    def _read(self, lineage: Lineage) -> Lineage:
        lineage.slices, lineage.metrics = (
            [
                name
                for (name,) in self._connection.execute(
                    "SELECT name FROM names WHERE lineage = ? AND kind = ? ORDER BY position",
                    (lineage.id, kind),
                )
            ]
            for kind in ("slice", "metric")
        )
        bounds = (lineage.key(0), lineage.key(STEP_LAST))
        found = self._connection.execute(
            "SELECT key, samples FROM steps WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT 1", bounds
        ).fetchone()
        if found is not None:
            lineage.newest, lineage.samples = found[0] & STEP_LAST, found[1]
            lineage.first = self._first(lineage, bounds)
        return lineage

    def _first(self, lineage: Lineage, bounds: tuple[int, int]) -> int:
        """The oldest step that is kept in any form."""
        oldest = self._connection.execute(
            "SELECT key FROM steps WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 1", bounds
        ).fetchone()[0]
        rolled = self._connection.execute(
            "SELECT min(step) FROM rollups WHERE key BETWEEN ? AND ?",
            (lineage.id << STEP_BITS + 3, (lineage.id + 1 << STEP_BITS + 3) - 1),
        ).fetchone()[0]
        return int(min(oldest & STEP_LAST, STEP_LAST if rolled is None else rolled))
