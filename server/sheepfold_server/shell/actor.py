"""The loop every actor shares: one event at a time through the one door, effects in their order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Event = TypeVar("Event")
Effect = TypeVar("Effect")


class Actor(Generic[Event, Effect]):
    """Feeds events to `handle` and performs its effects, from whichever thread submits.

    Events submitted while one is being handled (also by an effect being performed) wait their turn, so that
    the order of effects is the order of decisions. `perform` must not block. If either raises, the state can
    no longer be trusted: `on_failure` is told, and nothing is handled any more.
    """

    def __init__(
        self,
        handle: Callable[[Event], list[Effect]],
        perform: Callable[[Effect], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._handle, self._perform, self._on_failure = handle, perform, on_failure
        self._has_failed = False
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self._is_busy = False

    def submit(self, event: Event) -> None:
        """Handle the event now, or let the thread that is at it take it next."""
        with self._lock:
            self._events.append(event)
            if self._is_busy:
                return
            self._is_busy = True
        self._drain()

    @property
    def waiting(self) -> int:
        """Events that wait their turn."""
        return len(self._events)

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._events:
                    self._is_busy = False
                    return
                event = self._events.popleft()
            if self._has_failed:
                continue
            try:
                for effect in self._handle(event):
                    self._perform(effect)
            except Exception as error:
                self._has_failed = True
                self._on_failure(error)
