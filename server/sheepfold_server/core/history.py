"""What happened to a job, for people: numbered, so that who looks again sees what is new."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import sheepfold_wire.messages as m

EVENTS_KEPT = 256


@dataclass(frozen=True, slots=True)
class _Happened:
    number: int
    at: float
    step: int
    kind: str
    author: str
    text: str


@dataclass(slots=True)
class History:
    """The newest events. Times are the coordinator's monotonic clock; who looks is told their age."""

    events: deque[_Happened] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    count: int = 0

    def add(self, now: float, step: int, kind: str, text: str, author: str = "") -> None:
        self.count += 1
        self.events.append(_Happened(self.count, now, step, kind, author, text))

    def told(self, now: float) -> tuple[m.Event, ...]:
        """Oldest first."""
        return tuple(m.Event(e.number, now - e.at, e.step, e.kind, e.author, e.text) for e in self.events)
