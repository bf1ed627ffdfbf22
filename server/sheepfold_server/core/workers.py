"""Who is attached: workers, when they were last heard of, and what they have not been told yet."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import sheepfold_wire.messages as m
from sheepfold_server.core.attempts import Attempt

ENDS_KEPT = 256


def is_urgent(ends: tuple[m.AttemptEnd, ...]) -> bool:
    """Whether the worker may be at work for nothing: that an attempt counts can wait for its next call."""
    return any(not end.is_committed for end in ends)


@dataclass(slots=True)
class Worker:
    request: m.AttachRequest
    seen_at: float
    attached_at: float
    lost_at: float | None = None
    """When its connection broke, if it has not called since."""
    slots_staged: int = 0
    slots_committed: int = 0
    samples_committed: int = 0
    refused: int = 0
    usage: m.WorkerUsage | None = None
    plans_ahead: bool = False
    """It loads samples before they are leased."""
    expects: tuple[int, int] | None = None
    """(step, slot) that it was told to expect."""
    ends: deque[m.AttemptEnd] = field(default_factory=lambda: deque(maxlen=ENDS_KEPT))
    ends_count: int = 0

    def end(self, attempt: Attempt, why: str, is_committed: bool) -> None:
        self.ends_count += 1
        self.ends.append(m.AttemptEnd(attempt.id, why, is_committed, self.ends_count))

    def ends_after(self, heard: int) -> tuple[m.AttemptEnd, ...]:
        """Ends the worker has not heard of: a lost reply loses none."""
        while self.ends and self.ends[0].number <= heard:
            self.ends.popleft()
        return tuple(self.ends)


class Workers:
    """The attached workers of a job, by the name each chose."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._expected: Counter[tuple[int, int]] = Counter()
        self.lost: set[str] = set()
        """Those whose connection broke and that have not called since."""
        self.has_news = False
        """Whether an attempt ended that will not count, or a worker left, since `Presence` looked."""

    def attach(self, request: m.AttachRequest, now: float) -> bool:
        """Whether the worker is new; attaching again keeps its counts."""
        known = self._workers.get(request.worker)
        if known is not None:
            known.request = request
            self.seen(request.worker, now)
            return False
        self._workers[request.worker] = Worker(request, now, now)
        return True

    def get(self, name: str) -> Worker | None:
        return self._workers.get(name)

    def seen(self, name: str, now: float) -> None:
        """The worker called."""
        worker = self._workers[name]
        worker.seen_at, worker.lost_at = now, None
        self.lost.discard(name)

    def lose(self, name: str, now: float) -> None:
        """Its connection broke."""
        worker = self._workers.get(name)
        if worker is not None:
            worker.lost_at = now
            self.lost.add(name)

    def items(self) -> list[tuple[str, Worker]]:
        return list(self._workers.items())

    def __len__(self) -> int:
        """Those that take leases."""
        return sum(not worker.request.is_reader for worker in self._workers.values())

    @property
    def attached(self) -> int:
        """All of them, readers too."""
        return len(self._workers)

    def expect(self, name: str, place: tuple[int, int] | None) -> None:
        """The worker loads samples for this (step, slot)."""
        worker = self._workers.get(name)
        if worker is None or worker.expects == place:
            return
        if worker.expects is not None:
            self._expected[worker.expects] -= 1
            if not self._expected[worker.expects]:
                del self._expected[worker.expects]
        if place is not None:
            self._expected[place] += 1
        worker.expects = place

    def is_expected(self, place: tuple[int, int], but_by: str) -> bool:
        """Whether another worker loads samples for that (step, slot)."""
        worker = self._workers.get(but_by)
        return self._expected[place] > (worker is not None and worker.expects == place)

    def leave(self, name: str) -> None:
        self.expect(name, None)
        self._workers.pop(name, None)
        self.lost.discard(name)
        self.has_news = True

    def tell_end(self, attempt: Attempt, why: str, is_committed: bool = False) -> None:
        worker = self._workers.get(attempt.worker)
        if worker is not None:
            worker.end(attempt, why, is_committed)
            self.has_news |= not is_committed

    def note_committed(self, attempt: Attempt) -> None:
        worker = self._workers.get(attempt.worker)
        if worker is not None and attempt.facts is not None:
            worker.slots_committed += 1
            worker.samples_committed += attempt.facts.samples

    def status(self, now: float, holding: dict[str, int]) -> tuple[m.WorkerStatus, ...]:
        return tuple(
            m.WorkerStatus(
                worker=name,
                host=worker.request.host,
                pid=worker.request.pid,
                device=worker.request.device,
                seconds_since_seen=now - worker.seen_at,
                slots_committed=worker.slots_committed,
                samples_committed=worker.samples_committed,
                holding=holding.get(name, 0),
                versions=worker.request.versions,
                zone=worker.request.zone,
                refused=worker.refused,
                usage=worker.usage,
                seconds_attached=now - worker.attached_at,
            )
            for name, worker in sorted(self._workers.items())
            if not worker.request.is_reader
        )
