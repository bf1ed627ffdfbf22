"""The coordinator of one job: the state machine that decides which gradients form a step.

One door: `handle(event, now) -> [effect]`. No clock, no I/O, no tensors: scalars in, commands out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.administration import Administration
from sheepfold_server.core.attempts import Attempts
from sheepfold_server.core.batch import BatchPlan
from sheepfold_server.core.events import (
    Answer,
    CoordinatorEffect,
    CoordinatorEvent,
    FromShard,
    FromWorker,
    Persisted,
    Refuse,
    ShardDown,
    ShardUp,
    Tick,
    WorkerReply,
)
from sheepfold_server.core.files import FileLedger
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.loss_scale import UNSCALED, LossScale
from sheepfold_server.core.opening import Opening
from sheepfold_server.core.records import CoordinatorRecord
from sheepfold_server.core.recovery import Recovery
from sheepfold_server.core.remembering import Remembering
from sheepfold_server.core.reports import job_status, waiting_for
from sheepfold_server.core.rewinding import rewind
from sheepfold_server.core.schedule import ConfigHistory
from sheepfold_server.core.state import JobState, Life, ShardState
from sheepfold_server.core.stepping import Stepping
from sheepfold_server.core.workers import Worker
from sheepfold_wire.errors import (
    BadConfig,
    DataMismatch,
    NotReady,
    PreconditionError,
    SheepfoldError,
    WorkerUnknown,
)
from sheepfold_wire.ids import NOTHING_LOADED
from sheepfold_wire.job import Job

REQUESTS_KEPT = 1024
WAIT_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class _Waiter:
    """A worker whose call for a lease is held until there is work."""

    caller: int
    worker: str
    until: float


class Coordinator:
    """Decides for all shards of one job at once."""

    def __init__(self, job: Job, shard_count: int, term: int, lineage: str) -> None:
        self._state = JobState(
            ConfigHistory(job),
            BatchPlan(job),
            term,
            lineage,
            [ShardState() for _ in range(shard_count)],
            Attempts(term),
            loss_scale=LossScale(UNSCALED if job.loss_scale is None else job.loss_scale.initial),
            files=FileLedger(job.data) if job.data.mode == "shards" else None,
        )
        self._granting = Granting(self._state)
        self._stepping = Stepping(self._state, self._granting)
        self._recovery = Recovery(self._state, self._granting, self._stepping)
        self._opening = Opening(self._state, self._recovery)
        self._administration = Administration(self._state, self._stepping)
        self._waiters: list[_Waiter] = []
        self._answered: OrderedDict[str, WorkerReply] = OrderedDict()
        """Answers of administrative calls by call and request id: a repeat acts once (invariant I18)."""

    def remember(self, records: Iterable[CoordinatorRecord]) -> None:
        """Become the coordinator of an earlier term's job, by its log; only at once after it is made."""
        remembering = Remembering(self._state, self._granting)
        remembering.take_all(records)
        self._opening.is_created = True
        self._answered.update(remembering.answers)
        self._state.outbox.clear()

    # --- the door ---------------------------------------------------------------------------------

    def handle(self, event: CoordinatorEvent, now: float) -> list[CoordinatorEffect]:
        """Take one event at monotonic time `now` (seconds); returns what to do, in order."""
        state = self._state
        state.now = now
        match event:
            case FromWorker(caller, request):
                self._on_request(caller, request)
            case FromShard(shard, report):
                self._on_report(shard, report)
            case Persisted(number):
                self._stepping.on_persisted(number)
            case ShardUp():
                self._opening.on_shard_up(event)
            case ShardDown(shard):
                self._opening.on_shard_down(shard)
            case Tick():
                self._granting.expire()
                self._expire_pins()
        self._serve_waiters()
        effects, state.outbox = state.outbox, []
        return effects

    def status(self, now: float) -> m.JobStatus:
        """What a terminal or a page shows; changes nothing."""
        self._state.now = now
        return job_status(self._state)

    @property
    def job(self) -> Job:
        return self._state.job

    @property
    def has_ended(self) -> bool:
        return self._state.life is Life.ENDED

    # --- calls of workers and administrators --------------------------------------------------------

    def _on_request(self, caller: int, request: object) -> None:
        try:
            match request:
                case m.CreateJobRequest():
                    reply: WorkerReply = self._once(
                        "create", request.request_id, lambda: self._opening.create(request)
                    )
                case m.AttachRequest():
                    reply = self._attach(request)
                case m.LeaseRequest():
                    self._lease(caller, request)
                    return
                case m.HeartbeatRequest():
                    reply = self._heartbeat(request)
                case m.ReleaseRequest():
                    reply = self._release(request)
                case m.ConfigChangeRequest():
                    reply = self._once(
                        "change", request.request_id, lambda: self._administration.change_config(request)
                    )
                case m.ControlRequest():
                    reply = self._administration.control(request)
                case m.RewindRequest():
                    rewind(self._state, request)
                case m.ChoreRequest():
                    self._known(request.worker)
                    reply = self._state.chores.ask(request, self._state.version)
                case m.EvaluationRequest():
                    reply = self._administration.evaluated(request)
                case m.PinRequest():
                    reply = self._pin(request)
                case _:
                    raise BadConfig(f"{type(request).__name__} is no call of a worker")
        except SheepfoldError as error:
            self._state.outbox.append(Refuse(caller, error))
        else:
            self._state.outbox.append(Answer(caller, reply))

    def _once(self, call: str, request_id: str, act: Callable[[], WorkerReply]) -> WorkerReply:
        key = f"{call}/{request_id}"
        known = self._answered.get(key)
        if known is not None:
            return known
        reply = act()
        if request_id:
            self._answered[key] = reply
            while len(self._answered) > REQUESTS_KEPT:
                self._answered.popitem(last=False)
        return reply

    def _attach(self, request: m.AttachRequest) -> m.AttachReply:
        state = self._state
        data = state.job.data
        if request.network not in ("", "cluster", "external"):
            raise BadConfig(f"network = {request.network!r}: give cluster or external")
        if request.data_samples and data.samples and request.data_samples != data.samples:
            raise DataMismatch(
                f"the data set has {request.data_samples} samples, the job says data.samples = {data.samples}"
            )
        if request.data_fingerprint and data.fingerprint and request.data_fingerprint != data.fingerprint:
            raise DataMismatch(
                f"the data set's fingerprint is {request.data_fingerprint}, the job's {data.fingerprint}"
            )
        if request.manifest_json:
            self._opening.take_manifest(request.manifest_json)
        if state.unusable is not None:
            raise state.unusable
        missing = [index for index, shard in enumerate(state.shards) if not shard.is_up]
        if missing:
            raise NotReady(
                f"shards {missing} of {len(state.shards)} have not connected to the coordinator yet"
            )
        if state.geometry is None:
            raise NotReady(f"job {state.name} has no model yet; attach a worker first")
        if state.workers.attach(request, state.now) and not request.is_reader:
            place = f"{request.host}, pid {request.pid}, {request.device}"
            state.event("attach", f"worker {request.worker} attached from {place}")
        return m.AttachReply(
            job=state.name,
            worker=request.worker,
            term=state.term,
            lineage=state.lineage,
            version=state.version,
            manifest_json=state.geometry.manifest.to_json(),
            config_json=state.resolved_json,
            shards=tuple(
                m.ShardAddress(i, s.address(request.network), s.incarnation)
                for i, s in enumerate(state.shards)
                if s.hello is not None
            ),
            heartbeat_seconds=min(2.0, state.job.leases.seconds / 4),
            durability=state.durability,
        )

    def _known(self, name: str) -> Worker:
        worker = self._state.workers.get(name)
        if worker is None:
            raise WorkerUnknown(f"worker {name} is not attached (any more); attach again")
        worker.seen_at = self._state.now
        return worker

    def _lease(self, caller: int, request: m.LeaseRequest) -> None:
        worker = self._known(request.worker)
        if worker.request.is_reader:
            raise PreconditionError(f"{request.worker} attached as a reader, and readers take no leases")
        worker.plans_ahead = request.plans_ahead
        if not worker.plans_ahead:
            worker.expects = None
        worker.ends_after(request.ends_heard)
        self._state.chores.went_on(request.worker)
        lost = [a for a in self._state.attempts.of_worker(request.worker) if a.id not in request.holding]
        if lost:  # the reply that gave this lease never arrived
            self._state.outbox.append(
                Answer(caller, self._lease_reply(request.worker, "leased", self._granting.message(lost[0])))
            )
            return
        wait = min(max(0.0, request.wait_seconds), WAIT_SECONDS_MAX)
        self._waiters = [w for w in self._waiters if w.worker != request.worker or not self._superseded(w)]
        self._waiters.append(_Waiter(caller, request.worker, self._state.now + wait))

    def _superseded(self, waiter: _Waiter) -> bool:
        """The worker called again: the earlier call is answered, so that nobody waits for nothing."""
        self._state.outbox.append(Answer(waiter.caller, self._lease_reply(waiter.worker, "wait")))
        return True

    def _serve_waiters(self) -> None:
        """Give work to held calls, oldest first; answer those whose wait is over or whose job is."""
        held: list[_Waiter] = []
        for waiter in self._waiters:
            if self._state.unusable is not None:
                self._state.outbox.append(Refuse(waiter.caller, self._state.unusable))
                continue
            life = self._state.life
            attempt = None if life is Life.ENDED else self._granting.grant(waiter.worker)
            if attempt is not None:
                reply = self._lease_reply(waiter.worker, "leased", self._granting.message(attempt))
            elif life is Life.ENDED or waiter.until <= self._state.now:
                reply = self._lease_reply(waiter.worker, self._lease_state())
            else:
                held.append(waiter)
                continue
            self._state.outbox.append(Answer(waiter.caller, reply))
        self._waiters = held

    def _lease_state(self) -> str:
        return {Life.ENDED: "ended", Life.PAUSED: "paused"}.get(self._state.life, "wait")

    def _lease_reply(self, name: str, state: str, lease: m.Lease | None = None) -> m.LeaseReply:
        worker = self._state.workers.get(name)
        ends = worker.ends_after(0) if worker is not None else ()
        why = self._state.why or waiting_for(self._state)
        return m.LeaseReply(state, self._state.version, "" if lease else why, lease, ends)

    def _heartbeat(self, request: m.HeartbeatRequest) -> m.HeartbeatReply:
        worker = self._known(request.worker)
        worker.usage = request.usage or worker.usage
        self._granting.renew(request.worker, request.progress)
        ends = worker.ends_after(request.ends_heard)
        return m.HeartbeatReply(self._state.life.value, self._state.version, ends)

    def _release(self, request: m.ReleaseRequest) -> m.ReleaseReply:
        released = self._granting.release(request.worker, request.attempts, request.reason or "released")
        if request.is_leaving:
            for waiter in [w for w in self._waiters if w.worker == request.worker]:
                self._waiters.remove(waiter)
                self._superseded(waiter)
            known = self._state.workers.get(request.worker)
            if known is not None and not known.request.is_reader:
                told = f"worker {request.worker} left: {request.reason}; {released} leases handed back"
                self._state.event("leave", told)
            self._state.forget_worker(request.worker)
        return m.ReleaseReply(released)

    def _pin(self, request: m.PinRequest) -> m.PinReply:
        state = self._state
        reply = state.pins.ask(request, state.version, state.now, state.job.serve.pinned_versions)
        state.tell_pins()
        return reply

    def _expire_pins(self) -> None:
        before = self._state.pins.versions
        self._state.pins.expire(self._state.now)
        if self._state.pins.versions != before:
            self._state.tell_pins()

    # --- reports of shards -----------------------------------------------------------------------------

    def _on_report(self, shard: int, report: m.ShardReport) -> None:
        stepping = self._stepping
        match report:
            case m.JobOpened():
                self._opening.on_opened(shard, report)
            case m.Staged():
                stepping.on_staged(shard, report)
            case m.PartRefused():
                stepping.on_refused(report)
            case m.Folded():
                stepping.on_folded(shard, report)
            case m.PartLost():
                self._recovery.on_part_lost(shard, report)
            case m.Prepared():
                stepping.on_prepared(shard, report)
            case m.Norms():
                stepping.on_norms(shard, report)
            case m.Applied():
                stepping.on_applied(shard, report)
            case m.ShardFailed():
                self._on_failed(f"shard {shard}: {report.why}")

    def _on_failed(self, why: str) -> None:
        """Without a version there is nothing to resume: workers are told at once."""
        if self._state.version == NOTHING_LOADED:
            self._state.spoil(PreconditionError(why))
        else:
            self._state.pause(why)
