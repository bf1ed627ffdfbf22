"""Blocking calls beside the script's thread: a few daemon threads."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress

Work = Callable[[], None]

THREADS_MAX = 16
IDLE_SECONDS = 60.0
WAKE_SECONDS = 0.5
"""Ctrl-C just before a wait is noticed after it."""


class CallThreads:
    """Runs work in at most `threads_max` daemon threads, begun when needed, ended when idle.

    With one thread, work is done in the order in which it was handed in.

    Not concurrent.futures: its threads are joined when Python exits, however long their calls still wait.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS, threads_max: int = THREADS_MAX) -> None:
        self._idle_seconds, self._threads_max = idle_seconds, threads_max
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._all: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._pending = 0
        """Pieces of work handed in and not finished."""
        self._quiet: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Holds one thing after there was nothing pending."""

    def submit(self, work: Work) -> None:
        """`work` must not raise."""
        with self._lock:
            self._pending += 1
            is_short = self._pending > self._threads and self._threads < self._threads_max
            self._threads += is_short
        self._work.put(work)
        if is_short:
            thread = threading.Thread(target=self._run, name="sheepfold-call", daemon=True)
            self._all.add(thread)
            thread.start()

    def settle(self) -> None:
        """Wait until all that was handed in is done. Ctrl-C may interrupt it."""
        while self._pending:
            with suppress(queue.Empty):
                self._quiet.get(timeout=WAKE_SECONDS)

    def close(self, seconds: float) -> None:
        """End the threads that have nothing to do, and wait so long for the others.

        A daemon thread that is left when Python exits can abort the whole process.
        """
        deadline = time.monotonic() + seconds
        threads = [thread for thread in self._all if thread is not threading.current_thread()]
        for _ in threads:
            self._work.put(None)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=self._idle_seconds)
            except queue.Empty:
                with self._lock:
                    if self._pending >= self._threads:
                        continue  # work was handed in at this very moment and counts on this thread
                    self._threads -= 1
                    return
            if work is None:
                return
            try:
                work()
            finally:
                with self._lock:
                    self._pending -= 1
                    if not self._pending and self._quiet.empty():
                        self._quiet.put(None)
