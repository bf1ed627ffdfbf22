"""All jobs of a coordinator process: one core each, their callers, their links, their readers.

Thread-safe and free of gRPC: the aio service and the in-process transport both drive it.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.records import JobCreated
from sheepfold_server.shell.actor import Actor
from sheepfold_server.shell.data_dir import DataDir, Numbers
from sheepfold_server.shell.job_log import JobLog
from sheepfold_server.shell.start import StartError
from sheepfold_wire.errors import (
    BadConfig,
    InternalError,
    JobUnknown,
    NotReady,
    NumericsMismatch,
    PreconditionError,
    SheepfoldError,
    StaleIncarnation,
)
from sheepfold_wire.job import job_from_json

log = logging.getLogger(__name__)

REPORTS_KEPT = 512
JOBS_MAX = 64

Send = Callable[[m.ShardCommand], None]
Reader = Callable[[m.StepReport | None], None]
"""Takes each report as it comes; None: the job has ended. Must not block."""


@dataclass(slots=True)
class _LinkState:
    incarnation: int
    hello: m.Hello
    send: Send
    is_up: bool = True


class JobActor:
    """One job: its core behind one door, and who waits for what."""

    def __init__(
        self, coordinator: Coordinator, send: Callable[[int, m.ShardCommand], None], job_log: JobLog
    ) -> None:
        self.core = coordinator
        self._send, self._log = send, job_log
        job_log.set_synced(coordinator.job.durability.level == "wal_fsync")
        self._callers: dict[int, tuple[Future[e.WorkerReply], e.WorkerRequest]] = {}
        self._failure: InternalError | None = None
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()
        self.reports: deque[m.StepReport] = deque(maxlen=REPORTS_KEPT)
        self._readers: list[Reader] = []
        self._actor: Actor[e.CoordinatorEvent, e.CoordinatorEffect] = Actor(
            self._handle, self._perform, self._fail
        )

    def _handle(self, event: e.CoordinatorEvent) -> list[e.CoordinatorEffect]:
        return self.core.handle(event, time.monotonic())

    def submit(self, event: e.CoordinatorEvent) -> None:
        self._actor.submit(event)
        if self.core.has_ended:
            self._end_readers()

    def call(self, request: e.WorkerRequest) -> Future[e.WorkerReply]:
        """The answer of a worker's or administrator's call; a refusal is raised by the future."""
        future: Future[e.WorkerReply] = Future()
        if self._failure is not None:
            raise self._failure
        with self._lock:
            token = next(self._tokens)
            self._callers[token] = future, request
        self.submit(e.FromWorker(token, request))
        return future

    def _fail(self, error: Exception) -> None:
        """A bug of ours: the job stands still, and everyone who asks is told where to look."""
        incident = uuid.uuid4().hex[:12]
        log.error("incident %s: the job's bookkeeping failed", incident, exc_info=error)
        self._failure = InternalError(f"incident {incident}: see the log of the coordinator")
        for caller in list(self._callers):
            self._answer(caller, self._failure)

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
            case e.Publish(published):
                report = replace(published, committed_at=time.time())
                with self._lock:
                    self.reports.append(report)
                    readers = list(self._readers)
                for reader in readers:
                    reader(report)
            case e.Note(text):
                log.info(text)

    def _answer(self, caller: int, answer: e.WorkerReply | SheepfoldError) -> None:
        with self._lock:
            future, request = self._callers.pop(caller, (None, None))
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


@dataclass(slots=True)
class Fleet:
    """Jobs and shards of one coordinator process. Shards link once and serve every job."""

    shard_count: int
    directory: DataDir | None = None
    """Taken by the caller. Without one a restart is a new history."""
    numbers: Numbers = field(init=False)
    _jobs: dict[str, JobActor] = field(default_factory=dict)
    _links: dict[int, _LinkState] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        """Begins the next term, takes up the jobs of earlier ones; raises StartError, LogError, OSError."""
        if self.directory is None:
            self.numbers = Numbers(int(time.time() * 1000))  # of this process alone
            return
        self.numbers = self.directory.numbers()
        self.numbers.term += 1
        self.directory.save(self.numbers)
        for path in sorted((self.directory.path / "jobs").glob("*")):
            self._take_up(path)

    @property
    def term(self) -> int:
        return self.numbers.term

    def _take_up(self, path: Path) -> None:
        """Raises StartError for a job that is cut otherwise."""
        job_log = JobLog(path, path.name)
        records = list(job_log.read())
        if not records:  # it was being created
            return
        created = records[0]
        if not isinstance(created, JobCreated) or created.shard_count != self.shard_count:
            had = created.shard_count if isinstance(created, JobCreated) else "?"
            raise StartError(
                f"job {path.name} in {path} is cut over {had} shards, this coordinator is to have "
                f"{self.shard_count}; start it with --shards {had}, or give another --dir"
            )
        job = job_from_json(created.config_json)
        core = Coordinator(job, self.shard_count, self.term, created.lineage)
        core.remember(records)
        self._jobs[path.name] = JobActor(core, self._send, job_log)
        log.info("job %s is taken up in term %d from %d records", path.name, self.term, len(records))

    def _log_of(self, job: str) -> JobLog:
        directory = None if self.directory is None else self.directory.path / "jobs" / job
        job_log = JobLog(directory, job)
        list(job_log.read())
        return job_log

    def _next_incarnation(self, shard: int) -> int:
        """Stored before it is used: an earlier process of the shard must not pass for this one."""
        least = self.numbers.term if self.directory is None else 0  # of no earlier coordinator's
        number = max(self.numbers.incarnations.values(), default=least) + 1
        self.numbers.incarnations[shard] = number
        if self.directory is not None:
            self.directory.save(self.numbers)
        return number

    # --- jobs -----------------------------------------------------------------------------------------

    def job(self, name: str) -> JobActor:
        actor = self._jobs.get(name)
        if actor is None:
            known = ", ".join(sorted(self._jobs)) or "none yet"
            raise JobUnknown(
                f"no job named {name!r} here (known: {known}); create it with "
                "`sheepfold job create -f job.toml`"
            )
        return actor

    def jobs(self) -> tuple[str, ...]:
        return tuple(sorted(self._jobs))

    def create(self, request: m.CreateJobRequest) -> Future[e.WorkerReply]:
        """Create the job of the request, or compare it with the one that exists."""
        job = job_from_json(request.config_json)
        with self._lock:
            known = self._jobs.get(job.name)
            if known is not None:
                return known.call(request)
            if len(self._jobs) >= JOBS_MAX:
                raise PreconditionError(f"{JOBS_MAX} jobs exist already; that is this coordinator's limit")
            core = Coordinator(job, self.shard_count, self.term, uuid.uuid4().hex)
            job_log = self._log_of(job.name)
            actor = JobActor(core, self._send, job_log)
            answer = actor.call(request)
            if answer.exception() is not None:  # a refused job leaves nothing behind
                job_log.remove()
            else:
                self._jobs[job.name] = actor
                for shard, link in self._links.items():
                    if not link.is_up:
                        continue
                    actor.submit(e.ShardUp(shard, link.incarnation, link.hello, is_resumed=False))
        return answer

    def call(self, request: e.WorkerRequest) -> Future[e.WorkerReply]:
        if isinstance(request, m.CreateJobRequest):
            return self.create(request)
        return self.job(request.job).call(request)

    def status(self, name: str) -> m.JobStatus:
        return self.job(name).core.status(time.monotonic())

    def tick(self) -> None:
        """Time has passed, for every job."""
        for actor in list(self._jobs.values()):
            actor.submit(e.Tick())

    # --- shards ---------------------------------------------------------------------------------------

    def link_up(self, hello: m.Hello, send: Send) -> m.Welcome:
        """A shard has said Hello; commands go to `send`, the Welcome first of all."""
        if hello.shard_count != self.shard_count or not 0 <= hello.shard < self.shard_count:
            raise BadConfig(
                f"shard {hello.shard} of {hello.shard_count} does not fit here: this coordinator has "
                f"{self.shard_count} shards, numbered from 0; start it with the same --shards"
            )
        self._check_numerics(hello)
        self._check_process(hello)
        with self._lock:
            newest = self.numbers.incarnations.get(hello.shard, 0)
            is_resumed = bool(hello.incarnation) and hello.incarnation == newest
            incarnation = newest if is_resumed else self._next_incarnation(hello.shard)
            self._links[hello.shard] = _LinkState(incarnation, hello, send)
        welcome = m.Welcome(self.term, incarnation)
        send(welcome)
        for actor in list(self._jobs.values()):
            actor.submit(e.ShardUp(hello.shard, incarnation, hello, is_resumed))
        return welcome

    def _check_process(self, hello: m.Hello) -> None:
        """One process is one shard: no second one beside it, none that served another coordinator."""
        known = self._links.get(hello.shard)
        newest = self.numbers.incarnations.get(hello.shard, 0)
        if hello.incarnation and hello.incarnation != newest:
            raise StaleIncarnation(
                f"FENCED: shard {hello.shard} at {hello.address} is incarnation {hello.incarnation}, the "
                f"newest is {newest}: another process has taken its place, or it served another coordinator; "
                "stop it"
            )
        if not hello.incarnation and known is not None and known.is_up:
            raise NotReady(
                f"shard {hello.shard} is served by a process at {known.hello.address} already; stop that one "
                "first, or give this one another --index"
            )

    def _check_numerics(self, hello: m.Hello) -> None:
        """Bits are promised within one numeric fingerprint only; the kernel is the job's own choice."""
        for shard, link in self._links.items():
            if shard != hello.shard and link.hello.numeric_fingerprint != hello.numeric_fingerprint:
                raise NumericsMismatch(
                    f"shard {hello.shard} computes with {hello.numeric_fingerprint}, shard {shard} with "
                    f"{link.hello.numeric_fingerprint}; give all shards the same device type, processor "
                    "family and torch version"
                )

    def link_down(self, shard: int, send: Send) -> None:
        """The link that `send` belonged to is gone, unless another has taken its place."""
        with self._lock:
            link = self._links.get(shard)
            if link is None or link.send is not send:
                return
            link.is_up = False
        for actor in list(self._jobs.values()):
            actor.submit(e.ShardDown(shard))

    def report(self, shard: int, report: m.ShardReport, send: Send) -> None:
        """A report of a linked shard, passed to the job it is about; none from a link that was replaced."""
        link = self._links.get(shard)
        if isinstance(report, m.Hello) or link is None or link.send is not send:
            return
        actor = self._jobs.get(report.job)
        if actor is not None:
            actor.submit(e.FromShard(shard, report))

    def _send(self, shard: int, command: m.ShardCommand) -> None:
        link = self._links.get(shard)
        if link is not None:
            link.send(command)
