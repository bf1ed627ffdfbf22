"""SIGTERM: preemption gives notice; a slot that is nearly done is finished, any other handed back at once."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import weakref
from types import FrameType
from typing import Protocol

from sheepfold.exits import EXIT_TRY_AGAIN

log = logging.getLogger("sheepfold")

NOTICE_SECONDS = 10.0
"""What a worker that is told to go may take to finish its slot; Kubernetes by default kills after 30 s."""


class Leaver(Protocol):
    """What knows of one worker's slots."""

    notice_seconds: float

    def seconds_to_finish(self) -> float | None:
        """Until the slot held will be pushed, as earlier ones tell; None if nothing is held or known."""

    def leave_after_slot(self) -> None:
        """No further lease is taken: instead, the script ends."""


_leavers: weakref.WeakSet[Leaver] = weakref.WeakSet()
_is_leaving = False


def leave_on_sigterm(leaver: Leaver) -> None:
    """SIGTERM now ends the script as `sys.exit` does: `with` blocks and exit handlers hand leases back.

    Does nothing where the script has a handler of its own, or outside the main thread.
    """
    _leavers.add(leaver)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    global _is_leaving
    seconds, notice = finishing(list(_leavers))
    if _is_leaving or seconds is None:
        sys.exit(EXIT_TRY_AGAIN)
    _is_leaving = True
    log.warning("SIGTERM: the slot is finished in about %.1f s, then this worker leaves", seconds)
    for place in list(_leavers):
        place.leave_after_slot()
    # The estimate may be wrong: the second signal does not wait.
    timer = threading.Timer(notice, signal.raise_signal, (signal.SIGTERM,))
    timer.daemon = True
    timer.start()


def finishing(places: list[Leaver]) -> tuple[float | None, float]:
    """(seconds until every slot held is finished, the notice); None if that is not known or too long."""
    notice = min((place.notice_seconds for place in places), default=0.0)
    known = [seconds for place in places if (seconds := place.seconds_to_finish()) is not None]
    return (max(known), notice) if known and max(known) <= notice else (None, notice)
