"""Hands step reports to trackers, in a thread of its own: who offers one never waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.trackers.scalars import scalars
from sheepfold_server.dashboard.trackers.tracker import Opened, Tracker

log = logging.getLogger(__name__)

QUEUE_MAX = 10_000
JOIN_SECONDS = 10.0


class Mirror:
    """A bounded queue in front of all trackers: what does not fit is dropped, oldest first, and counted."""

    def __init__(
        self, trackers: Sequence[Opened], queue_max: int = QUEUE_MAX, clock: Callable[[], float] = time.time
    ) -> None:
        self._trackers = list(trackers)
        self._clock = clock
        self._queue: deque[tuple[m.StepReport, float]] = deque()
        self._queue_max = queue_max
        self._news = threading.Condition()
        self._is_closing = False
        self.dropped = 0
        self._runs: dict[tuple[int, str, str], Tracker | None] = {}
        """By tracker, job and lineage; None: it failed and is left alone."""
        self._thread = threading.Thread(target=self._run, name="trackers", daemon=True)
        if self._trackers:
            self._thread.start()

    def offer(self, report: m.StepReport) -> None:
        """Never blocks on a tracker; a report that was offered before is written once."""
        if not self._trackers:
            return
        with self._news:
            if len(self._queue) >= self._queue_max:
                self._queue.popleft()
                self.dropped += 1
                if self.dropped == 1:
                    log.warning(
                        "trackers are slower than steps: the oldest of %d reports is dropped", self._queue_max
                    )
            self._queue.append((report, self._clock()))
            self._news.notify()

    def close(self) -> None:
        """Write what waits, as far as it goes in time, and close every run."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        if self._trackers:
            self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._queue and not self._is_closing:
                    self._news.wait()
                if not self._queue:
                    break
                report, at = self._queue.popleft()
            for number in range(len(self._trackers)):
                self._write(number, report, at)
        if self.dropped:
            log.warning("%d step reports were dropped before trackers had them", self.dropped)
        for run in self._runs.values():
            if run is not None:
                self._guarded("closing", run.close)

    def _write(self, number: int, report: m.StepReport, at: float) -> None:
        key = (number, report.job, report.lineage)
        if key not in self._runs:
            self._runs[key] = self._opened(number, report)
        run = self._runs[key]
        if run is None or report.version <= run.newest:
            return
        if not self._guarded("writing", lambda: run.write(report.version, scalars(report), at)):
            self._runs[key] = None

    def _opened(self, number: int, report: m.StepReport) -> Tracker | None:
        found: list[Tracker] = []
        opened = self._trackers[number]
        self._guarded("opening", lambda: found.append(opened(report.job, report.lineage)))
        return found[0] if found else None

    def _guarded(self, doing: str, act: Callable[[], object]) -> bool:
        """A tracker's own failure is logged and ends nothing else."""
        try:
            act()
        except Exception:
            log.exception("%s a tracker's run failed; training and the page go on without it", doing)
            return False
        return True
