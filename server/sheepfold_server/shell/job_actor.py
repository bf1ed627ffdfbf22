"""One job of a coordinator process: its core behind one door, and who waits for what."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.past import books_at
from sheepfold_server.core.records import Books
from sheepfold_server.shell.actor import Actor
from sheepfold_server.shell.checkpoint_desk import CheckpointDesk
from sheepfold_server.shell.job_log import JobLog
from sheepfold_wire.errors import (
    InternalError,
    JobDeleted,
    NotReady,
    PreconditionError,
    SheepfoldError,
    WorkerUnknown,
)

log = logging.getLogger(__name__)

REPORTS_KEPT = 512
_OF_WORKERS = (m.LeaseRequest, m.HeartbeatRequest, m.ReleaseRequest, m.ChoreRequest)

Reader = Callable[[m.StepReport | None], None]
"""Takes each report as it comes; None: the job has ended. Must not block."""


def _cannot_delete(deleted: e.Delete) -> JobDeleted:
    raise PreconditionError("it is the only one of its process")


class JobActor:
    """Joins the core of a job with its log, its callers, its shards and its readers."""

    def __init__(
        self,
        coordinator: Coordinator,
        send: Callable[[int, m.ShardCommand], None],
        job_log: JobLog,
        desk: CheckpointDesk | None = None,
        begin_again: Callable[[Books], None] = lambda books: None,
        delete: Callable[[e.Delete], JobDeleted] = _cannot_delete,
    ) -> None:
        """`begin_again`: how another core is made of these books; it calls `replace`.

        `delete`: how the job is written down as deleted, and removed; returns what callers are told from then
        on. Raises OSError, PreconditionError.
        """
        self.core = coordinator
        self._send, self._log = send, job_log
        self._desk, self._begin_again, self._delete = desk, begin_again, delete
        job_log.set_synced(coordinator.job.durability.level == "wal_fsync")
        self._callers: dict[int, tuple[Future[e.WorkerReply], e.WorkerRequest]] = {}
        self._with_core: set[int] = set()
        """Callers that the core knows of."""
        self._refusal: SheepfoldError | None = None
        """What every caller is told once the job is not there any more."""
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()
        self.reports: deque[m.StepReport] = deque(maxlen=REPORTS_KEPT)
        self._readers: list[Reader] = []
        self._actor: Actor[e.CoordinatorEvent, e.CoordinatorEffect] = Actor(
            self._handle, self._perform, self._fail
        )

    def _handle(self, event: e.CoordinatorEvent) -> list[e.CoordinatorEffect]:
        if self._refusal is not None:
            return []
        if isinstance(event, e.FromWorker):
            self._with_core.add(event.caller)
        elif isinstance(event, e.CallLost):
            self._with_core.discard(event.caller)
            with self._lock:
                self._callers.pop(event.caller, None)
        return self.core.handle(event, time.monotonic())

    def submit(self, event: e.CoordinatorEvent) -> None:
        self._actor.submit(event)
        if self.core.has_ended:
            self._end_readers()

    def call(self, request: e.WorkerRequest) -> Future[e.WorkerReply]:
        """The answer of a worker's or administrator's call; a refusal is raised by the future."""
        future: Future[e.WorkerReply] = Future()

        def notice_loss(ended: Future[e.WorkerReply]) -> None:
            if ended.cancelled():
                self.submit(e.CallLost(token))

        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            token = next(self._tokens)
            self._callers[token] = future, request
        if isinstance(request, m.HeartbeatRequest):
            future.add_done_callback(notice_loss)
        self.submit(e.FromWorker(token, request))
        return future

    def _fail(self, error: Exception) -> None:
        """A bug of ours: the job stands still, and everyone who asks is told where to look."""
        incident = uuid.uuid4().hex[:12]
        log.error("incident %s: the job's bookkeeping failed", incident, exc_info=error)
        self._refuse_all(InternalError(f"incident {incident}: see the log of the coordinator"))

    def _refuse_all(self, why: SheepfoldError) -> None:
        with self._lock:
            self._refusal, callers = why, list(self._callers)
        for caller in callers:
            self._answer(caller, why)

    def watch(self, from_version: int, reader: Reader) -> Callable[[], None]:
        """Give `reader` the reports held since `from_version`, then live ones; returns how to stop."""
        with self._lock:
            for report in self.reports:
                if report.version >= from_version:
                    reader(report)
            self._readers.append(reader)
        if self.core.has_ended:
            self._end_readers()

        def stop() -> None:
            with self._lock:
                if reader in self._readers:
                    self._readers.remove(reader)

        return stop

    def _end_readers(self) -> None:
        with self._lock:
            readers, self._readers = self._readers, []
        for reader in readers:
            reader(None)

    def _perform(self, effect: e.CoordinatorEffect) -> None:
        if self._refusal is not None:  # deleted by the effect before
            return
        match effect:
            case e.Answer(caller, reply):
                self._answer(caller, reply)
            case e.Refuse(caller, error):
                self._answer(caller, error)
            case e.ToShard(shard, command):
                self._send(shard, command)
            case e.Persist(number, record):
                self._log.append(record)
                self._actor.submit(e.Persisted(number))
            case e.StoreIndex():
                self._ask_desk(lambda desk: desk.store_index(effect))
                if effect.keep is not None:
                    self._clean(effect, effect.keep)
            case e.FindCheckpoint():
                self._ask_desk(lambda desk: desk.find(self.core.job.name, effect))
            case e.FindBooks(version):
                records = self._log.read_back()
                self._ask_desk(lambda desk: books_at(list(records), version))
            case e.VerifyCheckpoint(ref):
                self._ask_desk(lambda desk: desk.verify(self.core.job.name, ref))
            case e.Delete():
                self._delete_job(effect)
            case e.BeginAgain(books):
                self._begin_again(books)
            case e.Publish(published):
                report = replace(published, committed_at=time.time())
                with self._lock:
                    self.reports.append(report)
                    readers = list(self._readers)
                for reader in readers:
                    reader(report)
            case e.Note(text):
                log.info(text)

    def _ask_desk(self, ask: Callable[[CheckpointDesk], e.CoordinatorEvent]) -> None:
        """It may take minutes; a core that began again meanwhile hears nothing of it."""
        desk, core = self._desk, self.core
        assert desk is not None

        def work() -> None:
            answer = ask(desk)
            if self.core is core:
                self._actor.submit(answer)

        desk.do(work)

    def _clean(self, effect: e.StoreIndex, keep: int) -> None:
        desk, job = self._desk, self.core.job.name
        assert desk is not None
        desk.do(lambda: desk.clean(job, effect.books.lineage, keep))

    def _delete_job(self, effect: e.Delete) -> None:
        try:
            why = self._delete(effect)
        except (OSError, PreconditionError) as error:
            told = f"job {effect.request.job} is not deleted, the coordinator cannot write that down: {error}"
            self._answer(effect.caller, PreconditionError(told))
            return
        with self._lock:
            again = [caller for caller, (_, request) in self._callers.items() if request == effect.request]
        for caller in again:  # whoever repeated the call while it was made
            self._answer(caller, effect.reply)
        self._refuse_all(why)

    def replace(self, core: Coordinator) -> None:
        """The job goes on with another core, in a later term; within `begin_again` only."""
        self.core = core
        with self._lock:
            callers = [(caller, request) for caller, (_, request) in self._callers.items()]
        for caller, request in callers:
            if caller not in self._with_core:  # its event waits, and is the new core's
                continue
            told = f"job {core.job.name} went back to a checkpoint"
            is_attached = isinstance(request, _OF_WORKERS)
            self._answer(
                caller,
                WorkerUnknown(f"{told}; attach again") if is_attached else NotReady(f"{told}; ask again"),
            )

    def _answer(self, caller: int, answer: e.WorkerReply | SheepfoldError) -> None:
        with self._lock:
            future, request = self._callers.pop(caller, (None, None))
        self._with_core.discard(caller)
        if future is None:
            return
        if not future.set_running_or_notify_cancel():
            self._take_back(request, answer)
        elif isinstance(answer, SheepfoldError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _take_back(self, request: object, answer: object) -> None:
        """The caller went away while it waited: the lease it was given is free again at once."""
        if isinstance(request, m.LeaseRequest) and isinstance(answer, m.LeaseReply) and answer.lease:
            given = (answer.lease.attempt,)
            back = m.ReleaseRequest(request.job, request.worker, given, reason="caller gone")
            self._actor.submit(e.FromWorker(0, back))
