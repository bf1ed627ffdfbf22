"""The worker's heartbeat: a daemon thread beside the script, for as long as the worker is attached."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sheepfold.transport import TransportError
from sheepfold_wire.errors import SheepfoldError

log = logging.getLogger("sheepfold")


PAUSE_SECONDS = 0.2
"""Between two heartbeats at least, be they refused or answered at once."""
JOIN_SECONDS = 0.2
"""For a heartbeat under way when it is stopped."""


class Heartbeat:
    """Calls `beat` with its period, over and over, until stopped.

    The coordinator holds each call for that long: so there is always one whose connection tells it that this
    worker lives. One that fails is no matter: the next settles it.
    """

    def __init__(self, beat: Callable[[float], None]) -> None:
        self._beat = beat
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, period_seconds: float) -> None:
        """Does nothing if it beats already, or was stopped."""
        if self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(
                target=self._run, args=(period_seconds,), name="sheepfold-heartbeat", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """None begins from now on; one that is held ends when its worker leaves."""
        self._stop.set()

    def join(self) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_SECONDS)

    def _run(self, period_seconds: float) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            began = time.monotonic()
            try:
                self._beat(period_seconds)
            except (SheepfoldError, TransportError) as error:
                log.debug("heartbeat: %s", error)
            except Exception:
                if not self._stop.is_set():  # on a transport that is being closed it may fail in any way
                    log.exception("a heartbeat failed; they go on")
            pause = max(0.0, PAUSE_SECONDS - (time.monotonic() - began))
