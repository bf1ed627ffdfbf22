"""Rates of a job over the last seconds of observation."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import sheepfold_wire.messages as m

RATE_SECONDS = 10.0
BYTES_STEPS = 32


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


class Rates:
    """Told of every status and report; knows the rates at the newest status."""

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque()
        self._bytes: deque[tuple[int, int]] = deque(maxlen=BYTES_STEPS)

    def look(self, status: m.JobStatus, at: float) -> None:
        self._seen.append(_Seen(at, status.version, status.samples_committed))
        while len(self._seen) > 2 and self._seen[0].at < at - RATE_SECONDS:
            self._seen.popleft()

    def step(self, report: m.StepReport) -> None:
        self._bytes.append((report.bytes_in, report.bytes_out))

    def now(self) -> Throughput:
        if len(self._seen) < 2 or self._seen[-1].at <= self._seen[0].at:
            return Throughput(0.0, 0.0, 0.0, 0.0)
        first, last = self._seen[0], self._seen[-1]
        seconds = last.at - first.at
        steps_per_second = (last.version - first.version) / seconds
        per_step = steps_per_second / max(1, len(self._bytes))
        return Throughput(
            steps_per_second,
            (last.samples - first.samples) / seconds,
            sum(into for into, _ in self._bytes) * per_step,
            sum(out for _, out in self._bytes) * per_step,
        )
