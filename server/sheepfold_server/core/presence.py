"""Heartbeats, held open: each stands for its worker's connection, and one that breaks is noticed at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.events import Answer, Refuse
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.state import JobState
from sheepfold_server.core.workers import Worker, is_urgent
from sheepfold_wire.errors import SheepfoldError

WAIT_SECONDS_MAX = 60.0
GONE_SECONDS = 1.0
"""For a worker that lives to call again after its connection broke: five round trips of 0.2 s."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A heartbeat that is answered when its time is over, or an attempt ended that its worker may be at."""

    caller: int
    worker: str
    ends_heard: int
    since: float
    until: float


class Presence:
    """Which workers are there.

    Slots of one whose connection broke are leased to others at once (`Granting`), and taken from it if it
    does not call again; one that hangs, or whose machine went dark, is waited for as long as its leases last.
    """

    def __init__(self, state: JobState, granting: Granting) -> None:
        self._s = state
        self._granting = granting
        self._held: list[_Held] = []
        self._due_at = math.inf
        """When the first of them has to be answered, whatever happens until then."""

    def beat(self, caller: int, request: m.HeartbeatRequest) -> None:
        """Renew what the worker works on; answered by `serve`."""
        worker = self._s.known_worker(request.worker)
        worker.usage = request.usage or worker.usage
        self._granting.renew(request.worker, request.progress)
        wait = min(max(0.0, request.wait_seconds), WAIT_SECONDS_MAX)
        now = self._s.now
        self._held.append(_Held(caller, request.worker, request.ends_heard, now, now + wait))
        is_due = is_urgent(worker.ends_after(request.ends_heard))
        self._due_at = min(self._due_at, now if is_due else now + wait)

    def serve(self) -> None:
        """Answer the calls that need not be held any longer; nothing to do after most events."""
        if not self._s.workers.has_news and self._s.now < self._due_at:
            return
        self._s.workers.has_news = False
        waiting: list[_Held] = []
        for held in self._held:
            try:
                worker = self._s.present_worker(held.worker)
            except SheepfoldError as error:  # it left, or fell silent
                self._s.outbox.append(Refuse(held.caller, error))
                continue
            ends = worker.ends_after(held.ends_heard)
            if is_urgent(ends) or held.until <= self._s.now:
                self._s.outbox.append(Answer(held.caller, self._reply(held, ends)))
            else:
                waiting.append(held)
        self._held = waiting
        self._due_at = min((held.until for held in waiting), default=math.inf)

    def _reply(self, held: _Held, ends: tuple[m.AttemptEnd, ...]) -> m.HeartbeatReply:
        return m.HeartbeatReply(self._s.life.value, self._s.version, ends, self._s.now - held.since)

    def lost(self, caller: int) -> None:
        """The connection of that call broke; of another than a heartbeat it says nothing."""
        for held in [held for held in self._held if held.caller == caller]:
            self._held.remove(held)
            self._s.workers.lose(held.worker, self._s.now)

    def expire(self) -> None:
        """Forget workers whose connection broke and that did not call again, and those that fell silent."""
        silence = 3.0 * self._s.job.leases.seconds
        for name, worker in self._s.workers.items():
            if worker.lost_at is not None and worker.lost_at + GONE_SECONDS <= self._s.now:
                broke = f"its connection broke and it has not called for {GONE_SECONDS:.0f} s"
                self._forget(name, worker, broke, "worker gone")
            elif worker.seen_at < self._s.now - silence:
                self._forget(name, worker, f"it has been silent for {silence:.0f} s", "expired")

    def _forget(self, name: str, worker: Worker, why: str, cause: str) -> None:
        released = self._granting.release(name, (), cause)
        told = f"worker {name} is no longer counted: {why}; {released} leases were taken back"
        if not worker.request.is_reader:
            self._s.event("leave", told)
        self._s.forget_worker(name)
