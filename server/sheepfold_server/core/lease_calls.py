"""Calls for a lease, held until there is work: who waits, and what each is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.events import Answer, Refuse
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.reports import short_room, waiting_for
from sheepfold_server.core.state import JobState, Life
from sheepfold_wire.errors import PreconditionError

WAIT_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class _Waiter:
    """A worker whose call for a lease is held until there is work."""

    caller: int
    worker: str
    until: float


class LeaseCalls:
    """The workers that ask for work, oldest call first."""

    def __init__(self, state: JobState, granting: Granting) -> None:
        self._s = state
        self._granting = granting
        self._waiters: list[_Waiter] = []
        self._due_at = math.inf
        """When the first of them has to be answered, whatever happens until then."""
        self._lacking_told = 0
        """The largest number of workers that was said to wait for room on shards."""

    def ask(self, caller: int, request: m.LeaseRequest) -> None:
        """Answered by `serve`, at once or when there is work."""
        worker = self._s.known_worker(request.worker)
        if worker.request.is_reader:
            raise PreconditionError(f"{request.worker} attached as a reader, and readers take no leases")
        worker.plans_ahead = request.plans_ahead
        if not worker.plans_ahead:
            self._s.workers.expect(request.worker, None)
        worker.ends_after(request.ends_heard)
        self._s.chores.went_on(request.worker)
        self._tell_short_room()
        lost = [a for a in self._s.attempts.of_worker(request.worker) if a.id not in request.holding]
        if lost:  # the reply that gave this lease never arrived
            self._s.outbox.append(
                Answer(caller, self._lease_reply(request.worker, "leased", self._granting.message(lost[0])))
            )
            return
        wait = min(max(0.0, request.wait_seconds), WAIT_SECONDS_MAX)
        self._waiters = [w for w in self._waiters if w.worker != request.worker or not self._superseded(w)]
        self._waiters.append(_Waiter(caller, request.worker, self._s.now + wait))
        self._due_at = min(self._due_at, self._s.now + wait)

    def _tell_short_room(self) -> None:
        """If more workers are there than can have a slot at a time, and again when more have to wait: a step
        takes longer, and nothing else shows it."""
        state = self._s
        if state.life is not Life.RUNNING or not state.all_ready():
            return
        attached, most = state.workers.attached, state.window() - 1
        if attached - most <= self._lacking_told:  # so it is in most calls: nobody is counted
            return
        workers = len(state.workers)
        slots = workers if state.job.batch.is_asynchronous else state.batch.slots(state.version)
        lacking = min(workers, slots) - most
        if lacking > self._lacking_told:
            self._lacking_told = lacking
            state.event("shard", f"{workers} workers are attached, {short_room(state)}")

    def _superseded(self, waiter: _Waiter) -> bool:
        """The worker called again: the earlier call is answered, so that nobody waits for nothing."""
        self._s.outbox.append(Answer(waiter.caller, self._lease_reply(waiter.worker, "wait")))
        return True

    def serve(self) -> None:
        """Give work to held calls, oldest first; answer those whose wait is over or whose job is.

        After most events there is no work for anyone, and nobody is looked at.
        """
        if not self._waiters or not self._is_any_answered():
            return
        held: list[_Waiter] = []
        for waiter in self._waiters:
            if self._s.unusable is not None:
                self._s.outbox.append(Refuse(waiter.caller, self._s.unusable))
                continue
            life = self._s.life
            attempt = None if life is Life.ENDED else self._granting.grant(waiter.worker)
            if attempt is not None:
                reply = self._lease_reply(waiter.worker, "leased", self._granting.message(attempt))
            elif life is Life.ENDED or waiter.until <= self._s.now:
                reply = self._lease_reply(waiter.worker, self._lease_state())
            else:
                held.append(waiter)
                continue
            self._s.outbox.append(Answer(waiter.caller, reply))
        self._waiters = held
        self._due_at = min((waiter.until for waiter in held), default=math.inf)

    def _is_any_answered(self) -> bool:
        """Whether one of the held calls may have an answer now."""
        is_over = self._s.unusable is not None or self._s.life is Life.ENDED
        return is_over or self._due_at <= self._s.now or self._granting.has_work()

    def _lease_state(self) -> str:
        return {Life.ENDED: "ended", Life.PAUSED: "paused"}.get(self._s.life, "wait")

    def _lease_reply(self, name: str, state: str, lease: m.Lease | None = None) -> m.LeaseReply:
        worker = self._s.workers.get(name)
        ends = worker.ends_after(0) if worker is not None else ()
        why = "" if lease else self._s.why or waiting_for(self._s)
        return m.LeaseReply(state, self._s.version, why, lease, ends)

    def leaves(self, worker: str) -> None:
        """Its calls are answered: it waits for nothing any more."""
        for waiter in [w for w in self._waiters if w.worker == worker]:
            self._waiters.remove(waiter)
            self._superseded(waiter)
