"""Carries out what a Session decides: calls in threads, waiting in the script's, and a heartbeat."""

from __future__ import annotations

import atexit
import logging
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import sheepfold_wire.messages as m
from sheepfold.calls import Answer, Contribution, Terms, WorkerCalls, for_script
from sheepfold.errors import JobEnded, Refused
from sheepfold.events import (
    Attached,
    Call,
    CallFailed,
    Ended,
    Failed,
    Goal,
    Heard,
    Make,
    Offer,
    Ready,
    Say,
    SessionAction,
    SessionEvent,
    Tick,
    WaitUntil,
    Want,
)
from sheepfold.exits import EXIT_TRY_AGAIN
from sheepfold.heartbeat import JOIN_SECONDS, Heartbeat
from sheepfold.session import Session
from sheepfold.signals import NOTICE_SECONDS, leave_on_sigterm
from sheepfold.slot_clock import SlotClock
from sheepfold.threads import CallThreads
from sheepfold.transport import TransportError
from sheepfold_wire.codecs import Buffer
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.ids import AttemptId

log = logging.getLogger("sheepfold")

WAKE_SECONDS_MAX = 0.5  # Ctrl-C just before a wait is noticed after it


class Driver:
    """One session's hands. Methods block and belong to one thread, the script's; close() may come from any.

    The session and everything that changes is touched under one lock; no call is made under it. The script's
    thread sleeps on `_news` and not on a condition: Ctrl-C inside Condition.wait may lose the lock.
    """

    def __init__(
        self,
        calls: WorkerCalls,
        session: Session,
        clock: Callable[[], float] = time.monotonic,
        notice_seconds: float = NOTICE_SECONDS,
    ) -> None:
        self.calls, self._session, self._clock = calls, session, clock
        self.usage = calls.usage
        self._lock = threading.RLock()
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads = CallThreads()
        self._terms: Terms | None = None
        self._outcome: SessionAction | None = None
        self._is_opening = False
        self._wake_at: float | None = None
        self._contribution: Contribution | None = None
        self._pulled: dict[int, Buffer] = {}
        self._is_in_place = True
        """Whether the script has taken over all that was pulled; if not, its weights are of no version."""
        self._work_done = 0
        self.plans_ahead = False
        """Whether samples are loaded before they are leased; see LeaseRequest."""
        self._last_said, self._is_closed = "", False
        self._began, self._limit_seconds = clock(), math.inf
        self._heartbeat = Heartbeat(self.beat_once)
        self._pid = os.getpid()
        atexit.register(self.close, "the script ended")
        self.slot_clock = SlotClock(clock, notice_seconds)
        leave_on_sigterm(self.slot_clock)

    # --- what the script asks for -------------------------------------------------------------------

    def attach(self) -> Terms:
        """Make the worker known; asks neither for a lease nor for weights. Raises JobEnded."""
        self._is_opening = True
        try:
            self._reach(Want(Goal.WEIGHTS))
        finally:
            self._is_opening = False
        return self.terms

    def next_lease(self) -> m.Lease:
        """The next lease, once the weights it wants are pulled; raises JobEnded when there is no more."""
        if self.slot_clock.is_leaving:
            sys.exit(EXIT_TRY_AGAIN)
        lease = self._reach(Want(Goal.LEASE)).lease
        assert lease is not None
        if not lease.is_init:
            self.slot_clock.begin()
        return lease

    def pull(self, version: int | None = None, limit_seconds: float | None = None) -> int:
        """Pull a version, by default the newest; returns which. `limit_seconds`: less patience than usual."""
        self._limit_seconds = math.inf if limit_seconds is None else limit_seconds
        try:
            self._reach(Want(Goal.WEIGHTS, version))
        finally:
            self._limit_seconds = math.inf
        return self.version

    def push(self, contribution: Contribution, lease: m.Lease | None = None) -> Ready | Ended:
        """Push the parts of this session's shards; the answer says whether they staged it, or what ended."""
        self._contribution, outcome = contribution, None
        try:
            return (outcome := self.run_until(Offer(lease)))
        finally:
            self._contribution = None
            counted = outcome.lease if isinstance(outcome, Ready) and outcome.is_counted else None
            self.calls.staged.extend([counted.attempt] if counted else [])
            self.slot_clock.end(counted is not None)

    def release(self, reason: str, attempts: tuple[AttemptId, ...] = ()) -> None:
        """Hand leases back, all or these. A failure is no matter: a lease expires by itself."""
        self.slot_clock.end(is_counted=False)
        with self._lock:
            self._session.handle(Want(Goal.NOTHING), self._clock())
        self._release_quietly(attempts, reason)

    def take_weights(self) -> tuple[Buffer, ...] | None:
        """The parts that the last goal pulled, in shard order; None if it needed none."""
        with self._lock:
            taken, self._pulled = self._pulled, {}
        return tuple(taken[shard] for shard in sorted(taken)) or None

    def confirm_weights(self) -> None:
        """The weights taken are in place. Without this word the next goal pulls them again."""
        with self._lock:
            self._is_in_place = True

    def note_progress(self) -> None:
        """A unit of work is done (a micro-batch, a pushed part): the next heartbeat renews the lease."""
        with self._lock:
            self._work_done += 1

    def outcome(self, attempt: AttemptId) -> m.AttemptEnd | None:
        """What became of one of the newest attempts; None while it is not known."""
        with self._lock:
            return self._session.outcomes.get(attempt)

    @property
    def terms(self) -> Terms:
        """The job as it was when this worker attached last: a shard may have another address since."""
        assert self._terms is not None  # nothing is asked for before the first attach
        return self._terms

    @property
    def version(self) -> int:
        """Version of the weights pulled last; -1 before the first."""
        return self._session.version

    @property
    def lease(self) -> m.Lease | None:
        """The lease held, until it is pushed or lost."""
        return self._session.lease

    # --- waiting ------------------------------------------------------------------------------------

    def _reach(self, goal: Want) -> Ready:
        outcome = self.run_until(goal)
        if isinstance(outcome, Ended):
            raise JobEnded(outcome.why)
        return outcome

    def run_until(self, goal: Want | Offer) -> Ready | Ended:
        """Pursue one goal to its end; raises Refused or ServerUnavailable. Ctrl-C interrupts it at once."""
        try:
            with self._lock:
                self._outcome, self._wake_at, self._began = None, None, self._clock()
                self._pulled = {}
                if not self._is_in_place:
                    self._session.forget_weights()
                self._is_in_place = True
                self._handle(goal)
            while (seconds := self._go_on()) is not None:
                with suppress(queue.Empty):
                    self._news.get(timeout=seconds)
            if isinstance(self._outcome, Failed):
                error = self._outcome.error
                raise for_script(error, self._clock() - self._began) from error
            assert isinstance(self._outcome, Ready | Ended)
            return self._outcome
        finally:
            if not isinstance(self._outcome, Ready | Ended):
                with self._lock:
                    self._session.handle(Want(Goal.NOTHING), self._clock())

    def _go_on(self) -> float | None:
        """Do what is due; returns for how many seconds nothing will be, None once the goal has an outcome."""
        with self._lock:
            if self._is_closed and self._outcome is None:
                raise Refused("this worker is closed; attach again")
            now = self._clock()
            self._check_limit(now)
            if self._outcome is not None:
                return None
            if self._wake_at is None:
                return WAKE_SECONDS_MAX
            if self._wake_at > now:
                return min(WAKE_SECONDS_MAX, self._wake_at - now)
            self._wake_at = None
            self._handle(Tick())
            return 0.0

    def _tell_script(self) -> None:
        if self._news.empty():
            self._news.put(None)

    def _check_limit(self, now: float) -> None:
        if self._outcome is None and now - self._began > self._limit_seconds:
            self._outcome = Failed(TransportError("the newest weights did not come"))
            self._session.handle(Want(Goal.NOTHING), now)

    # --- events in, actions out ---------------------------------------------------------------------

    def _handle(self, event: SessionEvent) -> None:
        with self._lock:
            now = self._clock()
            actions = self._session.handle(event, now)
            if self._is_opening and self._session.attached is not None:
                self._session.handle(Want(Goal.NOTHING), now)
                actions = [*(action for action in actions if isinstance(action, Say)), Ready(Goal.NOTHING)]
            for action in actions:
                self._carry_out(action)
            self._check_limit(now)
            self._tell_script()

    def _carry_out(self, action: SessionAction) -> None:
        match action:
            case Make():
                self._threads.submit(partial(self._make, action, self._contribution))
            case WaitUntil(at):
                self._wake_at = at if self._wake_at is None else min(at, self._wake_at)
            case Say(text):
                if text != self._last_said:
                    log.warning("job %s: %s", self.calls.opening.job, text)
                self._last_said = text
            case _:
                self._outcome = self._outcome or action

    def _make(self, make: Make, contribution: Contribution | None) -> None:
        """One call, in a thread of its own; its answer becomes an event.

        What is pushed is fixed when the session decides so: by the time a thread is free, the script may have
        left this goal and packed the next contribution.
        """
        try:
            try:
                event, part = self._answer(make, contribution)
            except (SheepfoldError, TransportError) as error:
                event, part = CallFailed(make.call, make.shard, error, make.round), None
            self._take(make, event, part)
        except Exception as error:  # not foreseen: the script must see it, and not wait for ever
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._outcome = self._outcome or Failed(error)
            self._tell_script()

    def _take(self, make: Make, event: SessionEvent | None, part: Buffer | None) -> None:
        with self._lock:
            if event is None or self._is_closed:
                return
            if part is not None and make.round == self._session.round:
                self._pulled[make.shard], self._is_in_place = part, False
            self._handle(event)

    def _answer(self, make: Make, contribution: Contribution | None) -> Answer:
        if make.call is Call.ATTACH:
            return Attached(self._attach()), None
        if make.call is Call.RELEASE:
            assert make.attempt is not None
            self._release_quietly((make.attempt,), "its version is no longer served")
            return None, None
        answer = self.calls.answer(make, self._terms, contribution, self.plans_ahead)
        if make.call is Call.PUSH:
            self.note_progress()
        return answer

    def _attach(self) -> m.AttachReply:
        terms = self.calls.attach()
        with self._lock:
            log.info("job %s: attached at version %d", terms.reply.job, terms.reply.version)
            self._terms = terms
            self._session.takes_newer_versions = terms.job.batch.max_staleness != 0
            self._heartbeat.start(terms.reply.heartbeat_seconds)
        return terms.reply

    # --- heartbeat and the end ----------------------------------------------------------------------

    def beat_once(self, wait_seconds: float = 0.0) -> None:
        """Say that this worker lives and how far it got; learn, within that time, which leases end."""
        with self._lock:
            lease, done, heard = self._session.lease, self._work_done, self._session.ends_heard
        progress = () if lease is None else (m.AttemptProgress(lease.attempt, done),)
        self._handle(Heard(self.calls.heartbeat(progress, heard, wait_seconds)))

    def _release_quietly(
        self, attempts: tuple[AttemptId, ...], reason: str, is_leaving: bool = False
    ) -> None:
        try:
            self.calls.release(attempts, reason, is_leaving)
        except (SheepfoldError, TransportError) as error:
            log.debug("job %s: release: %s", self.calls.opening.job, error)

    def close(self, reason: str = "closed") -> None:
        """Hand leases back, leave the job, end every call. Again, or in a forked child, it does nothing."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._tell_script()
        atexit.unregister(self.close)
        self._heartbeat.stop()
        if self._session.attached is not None:
            self._release_quietly((), reason, is_leaving=True)
        self._heartbeat.join()
        self.calls.transport.close()
        self._threads.close(JOIN_SECONDS)
