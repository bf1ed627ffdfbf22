"""What the dashboard knows of each job: its newest status and step reports, bounded in memory.

Thread-safe. The follower writes through `set_jobs`, `set_status` and `add`; the API reads.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, replace

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.slices import SliceRange, SliceWindow

STEPS_KEPT = 2_000
RATE_SECONDS = 10.0
BYTES_STEPS = 32


class NotKept(LookupError):
    """No such job or step here; the text says what there is."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Rates over the last 10 seconds of observation; 0 while nothing moves."""

    steps_per_second: float
    samples_per_second: float
    bytes_in_per_second: float
    bytes_out_per_second: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """Where a job stood when its status was read, by the reader's monotonic clock."""

    at: float
    version: int
    samples: int


class JobHistory:
    """One job's newest status and steps."""

    def __init__(self, steps_kept: int) -> None:
        self.status: m.JobStatus | None = None
        self._steps: deque[tuple[m.StepReport, int]] = deque(maxlen=steps_kept)
        self._window = SliceWindow(steps_kept)
        self._seen: deque[_Seen] = deque()

    def is_of(self, lineage: str) -> bool:
        """Whether these are steps of that history of the job."""
        return self.status is None or self.status.lineage == lineage

    def set_status(self, status: m.JobStatus, at: float) -> None:
        self.status = status
        self._seen.append(_Seen(at, status.version, status.samples_committed))
        while len(self._seen) > 2 and self._seen[0].at < at - RATE_SECONDS:
            self._seen.popleft()

    def add(self, report: m.StepReport) -> None:
        """Keep a report; one already kept is ignored, as after a reconnection."""
        if self._steps and report.step <= self._steps[-1][0].step:
            return
        row = self._window.add(report.slices)
        self._steps.append((replace(report, slices=()), row))

    @property
    def newest_version(self) -> int:
        return self._steps[-1][0].version if self._steps else 0

    def steps(self, first: int | None, limit: int) -> list[m.StepReport]:
        """Up to `limit` reports from step `first` on, or the newest ones; without their slices."""
        reports = [report for report, _ in self._steps]
        if first is None:
            return reports[-limit:]
        start = bisect_left(reports, first, key=lambda report: report.step)
        return reports[start : start + limit]

    def step(self, number: int) -> m.StepReport:
        for report, row in self._steps:
            if report.step == number:
                return replace(report, slices=self._window.at(row))
        kept = f"steps {self._steps[0][0].step} to {self._steps[-1][0].step}" if self._steps else "none yet"
        raise NotKept(f"step {number} is not kept here (kept: {kept})")

    def slices(self) -> tuple[SliceRange, ...]:
        return self._window.newest()

    def throughput(self) -> Throughput:
        first, last = (self._seen[0], self._seen[-1]) if self._seen else (_Seen(0, 0, 0), _Seen(0, 0, 0))
        seconds = last.at - first.at
        if seconds <= 0:
            return Throughput(0.0, 0.0, 0.0, 0.0)
        steps_per_second = (last.version - first.version) / seconds
        newest = [report for report, _ in self._steps][-BYTES_STEPS:]
        per_step = steps_per_second / max(1, len(newest))
        return Throughput(
            steps_per_second,
            (last.samples - first.samples) / seconds,
            sum(report.bytes_in for report in newest) * per_step,
            sum(report.bytes_out for report in newest) * per_step,
        )


class Store:
    """All jobs of one coordinator, and whether it answers."""

    def __init__(self, steps_kept: int = STEPS_KEPT) -> None:
        self._steps_kept = steps_kept
        self._lock = threading.Lock()
        self._jobs: dict[str, JobHistory] = {}
        self._trouble = "not connected yet"

    # --- written by the follower ------------------------------------------------------------------

    def set_trouble(self, why: str) -> None:
        """Why nothing is heard of the coordinator; empty while it answers."""
        with self._lock:
            self._trouble = why

    def set_jobs(self, names: tuple[str, ...]) -> None:
        """The jobs that exist now; those that are gone are forgotten."""
        with self._lock:
            self._jobs = {name: self._jobs.get(name) or JobHistory(self._steps_kept) for name in names}

    def set_status(self, status: m.JobStatus, at: float) -> None:
        """A job's status, read at monotonic time `at`. Another lineage forgets the steps of the old one."""
        with self._lock:
            history = self._jobs.get(status.job)
            if history is None:
                return
            if not history.is_of(status.lineage):
                history = self._jobs[status.job] = JobHistory(self._steps_kept)
            history.set_status(status, at)

    def add(self, report: m.StepReport) -> None:
        with self._lock:
            if report.job in self._jobs:
                self._jobs[report.job].add(report)

    def newest_version(self, job: str) -> int:
        with self._lock:
            return self._jobs[job].newest_version if job in self._jobs else 0

    # --- read by the API --------------------------------------------------------------------------

    def trouble(self) -> str:
        with self._lock:
            return self._trouble

    def jobs(self) -> list[m.JobStatus]:
        """Statuses of all jobs, by name; one whose status has not been read yet is left out."""
        with self._lock:
            return [h.status for _, h in sorted(self._jobs.items()) if h.status is not None]

    def status(self, job: str) -> m.JobStatus:
        with self._lock:
            status = self._history(job).status
        if status is None:
            raise NotKept(f"the status of job {job!r} has not been read yet; ask again in a second")
        return status

    def steps(self, job: str, first: int | None, limit: int) -> list[m.StepReport]:
        with self._lock:
            return self._history(job).steps(first, limit)

    def step(self, job: str, number: int) -> m.StepReport:
        with self._lock:
            return self._history(job).step(number)

    def slices(self, job: str) -> tuple[SliceRange, ...]:
        with self._lock:
            return self._history(job).slices()

    def throughput(self, job: str) -> Throughput:
        with self._lock:
            return self._history(job).throughput()

    def _history(self, job: str) -> JobHistory:
        found = self._jobs.get(job)
        if found is None:
            raise NotKept(f"no job named {job!r} here (known: {', '.join(sorted(self._jobs)) or 'none yet'})")
        return found
