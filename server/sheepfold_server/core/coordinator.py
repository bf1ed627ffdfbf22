"""The coordinator of one job: the state machine that decides which gradients form a step.

One door: `handle(event, now) -> [effect]`. No clock, no I/O, no tensors: scalars in, commands out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import sheepfold_wire.messages as m
from sheepfold_server.core.administration import Administration
from sheepfold_server.core.attaching import attach
from sheepfold_server.core.attempts import Attempts
from sheepfold_server.core.batch import BatchPlan
from sheepfold_server.core.checkpointing import Checkpointing, books_of
from sheepfold_server.core.deleting import Deleting
from sheepfold_server.core.events import (
    Answer,
    BooksFound,
    CallLost,
    CheckpointFound,
    CheckpointVerified,
    CoordinatorEffect,
    CoordinatorEvent,
    FromShard,
    FromWorker,
    IndexStored,
    Persisted,
    Refuse,
    ShardDown,
    ShardUp,
    Tick,
    WorkerReply,
)
from sheepfold_server.core.files import FileLedger
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.lease_calls import LeaseCalls
from sheepfold_server.core.ledger import take
from sheepfold_server.core.loss_scale import UNSCALED, LossScale
from sheepfold_server.core.opening import Opening
from sheepfold_server.core.presence import Presence
from sheepfold_server.core.quotas import UNBOUND, QuotaBook, Quotas
from sheepfold_server.core.records import CoordinatorRecord
from sheepfold_server.core.recovery import Recovery
from sheepfold_server.core.remembering import Remembering, settle
from sheepfold_server.core.reports import job_status
from sheepfold_server.core.rewinding import Rewinding
from sheepfold_server.core.schedule import ConfigHistory
from sheepfold_server.core.state import Checkpoints, JobState, Life, ShardState
from sheepfold_server.core.stepping import Stepping
from sheepfold_wire.errors import (
    BadConfig,
    PreconditionError,
    SheepfoldError,
)
from sheepfold_wire.ids import NOTHING_LOADED
from sheepfold_wire.job import Job

REQUESTS_KEPT = 1024


class Coordinator:
    """Decides for all shards of one job at once."""

    def __init__(
        self,
        job: Job,
        shard_count: int,
        term: int,
        lineage: str,
        checkpoint_url: str = "",
        quotas: Quotas = UNBOUND,
    ) -> None:
        """`lineage`, and the job, as they are in the log where there is one (`remembering.identity`)."""
        self._state = JobState(
            ConfigHistory(job),
            BatchPlan(job),
            term,
            lineage,
            [ShardState() for _ in range(shard_count)],
            Attempts(term),
            loss_scale=LossScale(UNSCALED if job.loss_scale is None else job.loss_scale.initial),
            files=FileLedger(job.data) if job.data.mode == "shards" else None,
            checkpoints=Checkpoints(checkpoint_url),
            quotas=QuotaBook(quotas),
        )
        self._granting = Granting(self._state)
        self._stepping = Stepping(self._state, self._granting)
        self._recovery = Recovery(self._state, self._granting, self._stepping)
        self._checkpointing = Checkpointing(self._state, self._granting)
        self._rewinding = Rewinding(self._state, self._checkpointing)
        self._deleting = Deleting(self._state)
        self._opening = Opening(self._state, self._recovery, self._rewinding)
        self._administration = Administration(self._state, self._stepping)
        self._lease_calls = LeaseCalls(self._state, self._granting)
        self._presence = Presence(self._state, self._granting)
        self._answered: OrderedDict[str, WorkerReply] = OrderedDict()
        """Answers of administrative calls by call and request id: a repeat acts once (invariant I18)."""

    def remember(self, records: Iterable[CoordinatorRecord], now: float = 0.0) -> None:
        """Become the coordinator of an earlier term's job, by its log; only at once after it is made."""
        self._state.now = now
        remembering = Remembering(self._state, self._granting)
        remembering.take_all(records)
        self._opening.is_created = True
        self._answered.update(remembering.answers)
        self._state.outbox.clear()

    def remembered(self) -> BooksFound:
        """The books of what was remembered, once it is applied; only at once after `remember`."""
        settle(self._state, self._granting)
        return BooksFound(books_of(self._state, take(self._state, self._granting)), self._state.resolved_json)

    # --- the door ---------------------------------------------------------------------------------

    def handle(self, event: CoordinatorEvent, now: float) -> list[CoordinatorEffect]:
        """Take one event at monotonic time `now` (seconds); returns what to do, in order."""
        state = self._state
        state.now = now
        if self._rewinding.is_over and not isinstance(event, Persisted):
            return []
        match event:
            case FromWorker(caller, request):
                self._on_request(caller, request)
            case CallLost(caller):
                self._presence.lost(caller)
            case FromShard(shard, report):
                self._on_report(shard, report)
            case Persisted(number):
                if self._rewinding.is_over:
                    self._rewinding.on_persisted(number)
                else:
                    self._stepping.on_persisted(number)
            case IndexStored():
                self._checkpointing.on_stored(event)
            case CheckpointFound():
                self._rewinding.on_found(event)
            case BooksFound():
                self._rewinding.on_books(event)
            case CheckpointVerified():
                self._deleting.on_verified(event)
            case ShardUp():
                self._checkpointing.on_shard_down(event.shard)  # what it was told on an earlier link is lost
                self._opening.on_shard_up(event)
            case ShardDown(shard):
                self._opening.on_shard_down(shard)
                self._checkpointing.on_shard_down(shard)
            case Tick(jobs):
                state.quotas.sharing = jobs
                self._granting.expire()
                self._presence.expire()
                self._expire_pins()
        if not self._rewinding.is_over:
            self._checkpointing.consider()
            self._lease_calls.serve()
            self._presence.serve()
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
    def open_job(self) -> m.OpenJob | None:
        """What its shards are told of the job; None before it has a model."""
        return None if self._state.geometry is None else self._opening.command()

    def answer_to(self, call: str, request_id: str) -> WorkerReply | None:
        """What an administrative call was answered, if it was made before."""
        return self._answered.get(f"{call}/{request_id}")

    @property
    def staging_room(self) -> int:
        """Parts that every shard has room for, if no other job takes any; 0 until all have opened the job."""
        return self._state.room()

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
                    reply = attach(self._state, self._opening, request)
                case m.LeaseRequest():
                    self._lease_calls.ask(caller, request)
                    return
                case m.HeartbeatRequest():
                    self._presence.beat(caller, request)
                    return
                case m.ReleaseRequest():
                    reply = self._release(request)
                case m.ConfigChangeRequest():
                    reply = self._once(
                        "change", request.request_id, lambda: self._administration.change_config(request)
                    )
                case m.ControlRequest():
                    reply = self._administration.control(request)
                    if request.action == "resume":
                        self._rewinding.look_again()
                case m.RewindRequest():
                    known = self.answer_to("rewind", request.request_id)
                    if known is None:
                        self._rewinding.ask(caller, request)
                        return
                    reply = known
                case m.CheckpointRequest():
                    self._checkpointing.ask(caller)
                    return
                case m.DeleteJobRequest():
                    self._deleting.ask(caller, request)
                    return
                case m.ChoreRequest():
                    self._state.known_worker(request.worker)
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

    def _release(self, request: m.ReleaseRequest) -> m.ReleaseReply:
        reason = request.reason or "released"
        released = self._granting.release(request.worker, request.attempts, reason, request.staged)
        if request.is_leaving:
            self._lease_calls.leaves(request.worker)
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
        """Before JobOpened a report may be about an earlier lineage, and after it all of it is said anew."""
        stepping = self._stepping
        if not self._state.shards[shard].is_ready and not isinstance(report, m.JobOpened | m.ShardFailed):
            return
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
            case m.PartSaved():
                self._checkpointing.on_part(shard, report)
            case m.ShardFailed() if report.term == self._state.term:
                self._on_failed(f"shard {shard}: {report.why}")

    def _on_failed(self, why: str) -> None:
        """Without a version there is nothing to resume: workers are told at once."""
        if self._state.version == NOTHING_LOADED:
            self._state.spoil(PreconditionError(why))
        else:
            self._state.pause(why)
