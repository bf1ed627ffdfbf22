"""How long a worker's slots take: what SIGTERM asks before it lets one be finished."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable

SLOTS_TIMED = 16


class SlotClock:
    """Times the slots of one worker, from lease to push."""

    def __init__(self, clock: Callable[[], float], notice_seconds: float) -> None:
        self._clock = clock
        self.notice_seconds = notice_seconds
        self.is_leaving = False
        """No further lease is taken: asking for one ends the script."""
        self._began: float | None = None
        self._seconds: deque[float] = deque(maxlen=SLOTS_TIMED)

    def begin(self) -> None:
        self._began = self._clock()

    def end(self, is_counted: bool) -> None:
        """The slot is pushed, or given up."""
        if is_counted and self._began is not None:
            self._seconds.append(self._clock() - self._began)
        self._began = None

    def seconds_to_finish(self) -> float | None:
        """Until the slot held will be pushed; None if none is, or it takes more than twice the usual."""
        if self._began is None or not self._seconds:
            return None
        usual, elapsed = statistics.median(self._seconds), self._clock() - self._began
        return max(0.0, usual - elapsed) if elapsed < 2 * usual else None

    def leave_after_slot(self) -> None:
        self.is_leaving = True
