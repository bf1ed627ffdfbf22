"""The newest messages to pages, numbered, for all readers at once. Pure; not thread-safe."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

MESSAGES_KEPT = 1_024


@dataclass(frozen=True, slots=True)
class Message:
    """`data` is JSON. `last_step` is the newest step in it, -1 if it carries none."""

    id: int
    event: str
    job: str
    data: str
    last_step: int = -1


@dataclass(frozen=True, slots=True)
class Gap:
    """Steps of a job that a reader is not told of; `from_step` is 0 where it is not known what it has."""

    job: str
    from_step: int
    to_step: int


class Ring:
    """A reader is a number, the id of the last message it was given: slow ones cost no memory."""

    def __init__(self, first_id: int, capacity: int = MESSAGES_KEPT) -> None:
        self._messages: deque[Message] = deque()
        self._capacity = capacity
        self._first = self._next = first_id
        self._evicted: dict[str, tuple[int, int]] = {}
        """Of each job the newest message with steps that is not held any more: (id, its last step)."""

    @property
    def newest(self) -> int:
        return self._next - 1

    def put(self, event: str, job: str, data: str, last_step: int = -1) -> None:
        self._messages.append(Message(self._next, event, job, data, last_step))
        self._next += 1
        if len(self._messages) > self._capacity:
            old = self._messages.popleft()
            if old.last_step >= 0:
                self._evicted[old.job] = (old.id, old.last_step)

    def lost_before(self, job: str, step: int) -> None:
        """Everything of a job up to that step was told before this ring began."""
        if step >= 0:
            self._evicted.setdefault(job, (self._first - 1, step))

    def after(
        self, position: int, job: str | None, known: Mapping[str, int]
    ) -> tuple[list[Gap], list[Message]]:
        """What a reader at `position` has missed for good, and the messages it is to be given now.

        `job` None means all; `known` is the newest step of each job that the reader is known to have.
        """
        position = min(position, self.newest)
        gaps = [
            Gap(name, min(known.get(name, -1) + 1, step), step)
            for name, (number, step) in self._evicted.items()
            if number > position and job in (None, name)
        ]
        held = self._messages[0].id if self._messages else self._next
        skipped = max(0, position + 1 - held)
        found = [m for m in islice(self._messages, skipped, None) if job in (None, m.job)]
        return gaps, found
