"""All jobs and shards of one coordinator process: who is linked, and which job a call is about.

Thread-safe and free of gRPC: the aio service and the in-process transport both drive it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.quotas import SLOTS_MIN, UNBOUND, Quotas, said
from sheepfold_server.core.records import Books
from sheepfold_server.core.remembering import identity
from sheepfold_server.shell.checkpoint_desk import CheckpointDesk, new_lineage
from sheepfold_server.shell.data_dir import DataDir, Numbers
from sheepfold_server.shell.job_actor import JobActor
from sheepfold_server.shell.job_log import JobLog, clear_buried
from sheepfold_server.shell.restoring import books_of_checkpoint
from sheepfold_server.shell.shard_links import LinkState, Send, check_hello
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.tombstones import Tombstone, Tombstones
from sheepfold_wire.errors import (
    CheckpointFailed,
    JobDeleted,
    JobUnknown,
    PreconditionError,
)
from sheepfold_wire.job import Job, job_from_json

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Fleet:
    """Jobs and shards of one coordinator process. Shards link once and serve every job."""

    shard_count: int
    directory: DataDir | None = None
    """Taken by the caller. Without one a restart is a new history."""
    checkpoint_url: str = ""
    """Where checkpoints of all jobs are kept; empty: nowhere."""
    quotas: Quotas = UNBOUND
    numbers: Numbers = field(init=False)
    _tombstones: Tombstones = field(init=False)
    _jobs: dict[str, JobActor] = field(default_factory=dict)
    _links: dict[int, LinkState] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _desk: CheckpointDesk | None = None

    def __post_init__(self) -> None:
        """Begins the next term, takes up the jobs of earlier ones; raises StartError, LogError, OSError."""
        if self.checkpoint_url:
            self._desk = CheckpointDesk(self.checkpoint_url, ThreadPoolExecutor(1, "checkpoints"))
        self._tombstones = Tombstones(self.directory, self.shard_count)
        if self.directory is None:
            self.numbers = Numbers(int(time.time() * 1000))  # of this process alone
            return
        self.numbers = self.directory.numbers()
        self.numbers.term += 1
        self.directory.save(self.numbers)
        clear_buried(self.directory.path)
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
        config, lineage, had = identity(records)
        if self._tombstones.holds(lineage):  # the process that deleted it died before it was removed
            self._bury(job_log, lineage)
            return
        if had != self.shard_count:
            raise StartError(
                f"job {path.name} in {path} is cut over {had} shards, this coordinator is to have "
                f"{self.shard_count}; start it with --shards {had}, or give another --dir, where "
                f"`sheepfold checkpoint restore {path.name}` takes the job up on any number of shards"
            )
        core = self._core(job_from_json(config), self.term, lineage)
        core.remember(records, time.monotonic())
        self._jobs[path.name] = self._actor(core, job_log)
        log.info("job %s is taken up in term %d from %d records", path.name, self.term, len(records))

    def _core(self, job: Job, term: int, lineage: str) -> Coordinator:
        return Coordinator(job, self.shard_count, term, lineage, self.checkpoint_url, self.quotas)

    def _actor(self, core: Coordinator, job_log: JobLog) -> JobActor:
        def begin_again(books: Books) -> None:
            self._begin_again(actor, books)

        def delete(deleted: e.Delete) -> JobDeleted:
            return self._delete(job_log, deleted)

        actor = JobActor(core, self._send, job_log, self._desk, begin_again, delete)
        return actor

    def _next_term(self) -> int:
        """Stored before it is used, as at the start."""
        with self._lock:
            self.numbers.term += 1
            if self.directory is not None:
                self.directory.save(self.numbers)
            return self.numbers.term

    def _begin_again(self, actor: JobActor, books: Books) -> None:
        """The books are in the job's log: a core of a new term takes the place of the one that wrote them."""
        core = self._core(job_from_json(books.ledger.config_json), self._next_term(), books.lineage)
        core.remember([books], time.monotonic())
        actor.replace(core)
        self._link_job(actor)

    def _link_job(self, actor: JobActor) -> None:
        """Tell a job of the shards that are up."""
        with self._lock:
            links = list(self._links.items())
        for shard, link in links:
            if link.is_up:
                actor.submit(e.ShardUp(shard, link.incarnation, link.hello, is_resumed=False))

    def _log_of(self, job: str) -> JobLog:
        directory = None if self.directory is None else self.directory.path / "jobs" / job
        job_log = JobLog(directory, job)
        if list(job_log.read()):
            raise PreconditionError(
                f"{directory} holds the log of a deleted job, which could not be removed: see the log of "
                "the coordinator; remove it, or give another name"
            )
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
        if actor is None and (deleted := self._tombstones.newest(name)) is not None:
            raise deleted.error()
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
            self._check_room()
            job_log = self._log_of(job.name)
            actor = self._actor(self._core(job, self.term, new_lineage()), job_log)
            answer = actor.call(request)
            if answer.exception() is not None:  # a refused job leaves nothing behind
                job_log.remove()
            else:
                self._jobs[job.name] = actor
                self.tick()  # so that each knows of the others before the first lease
                self._link_job(actor)
        return answer

    def _check_room(self) -> None:
        if len(self._jobs) >= self.quotas.jobs:
            raise PreconditionError(
                f"{len(self._jobs)} jobs exist already, quota: {said('jobs', self.quotas)}; delete one "
                "that has ended (`sheepfold job delete`), or raise it: --quota jobs=... of the coordinator"
            )
        others = unended(self._jobs.values())
        for actor in others:
            room, jobs = actor.core.staging_room, len(others) + 1
            if room and room < SLOTS_MIN * jobs:
                raise PreconditionError(
                    f"the staging memory of a shard holds {room} parts of job {actor.core.job.name}, too few "
                    f"to be shared by {jobs} jobs that need {SLOTS_MIN} each; raise --staging-bytes of the "
                    "shards, or stop a job"
                )

    def restore(self, request: m.RestoreRequest) -> m.RestoreReply:
        """Take up a job from its checkpoint, on as many shards as there are; may take minutes.

        Raises PreconditionError, NoCheckpoint, CheckpointFailed, NumericsMismatch, NotReady.
        """
        if self._desk is None:
            raise CheckpointFailed("this coordinator keeps no checkpoints; start it with --checkpoints URL")
        if (restored := self._restored(request)) is not None:
            return restored
        with self._lock:
            hellos = [link.hello for link in self._links.values() if link.is_up]
        books, passed_over = books_of_checkpoint(self._desk, request, self.shard_count, hellos)
        with self._lock:
            if (restored := self._restored(request)) is not None:
                return restored
            self._check_room()
            job_log = self._log_of(request.job)
            core = self._core(job_from_json(books.ledger.config_json), self._next_term(), books.lineage)
            core.remember([books], time.monotonic())
            actor = self._actor(core, job_log)
            job_log.append(books)
            self._jobs[request.job] = actor
            self.tick()
            self._link_job(actor)
        return m.RestoreReply(books.lineage, books.ledger.version, passed_over)

    def _restored(self, request: m.RestoreRequest) -> m.RestoreReply | None:
        """The answer, if that very call was made before; raises PreconditionError if the job is here."""
        known = self._jobs.get(request.job)
        if known is None:
            return None
        answer = known.core.answer_to("rewind", request.request_id)
        if not isinstance(answer, m.RewindReply):
            raise PreconditionError(
                f"job {request.job} is here already; to take it back to a version that is kept: "
                f"`sheepfold job rewind {request.job} --to V`"
            )
        return m.RestoreReply(answer.lineage, answer.version)

    def delete(self, request: m.DeleteJobRequest) -> Future[e.WorkerReply]:
        """Forget a job, unless that very call has done so before."""
        with self._lock:
            if (told := self._tombstones.answer_to(request)) is None:
                return self.job(request.job).call(request)
        answered: Future[e.WorkerReply] = Future()
        answered.set_result(told)
        return answered

    def _delete(self, job_log: JobLog, deleted: e.Delete) -> JobDeleted:
        """Within the job's own door: durable first, and only then is anything removed.

        The next term begins: no attempt of the job passes for one of another that gets its name. Raises
        OSError, PreconditionError where it cannot be written down; then nothing is changed.
        """
        with self._lock:
            self._next_term()
            stone = Tombstone.of(deleted)
            self._tombstones.add(stone)
            log.info("job %s of lineage %s is deleted by %s", stone.job, stone.lineages[0], stone.author)
            del self._jobs[stone.job]
            self._bury(job_log, stone.lineages[0])
            for link in self._links.values():
                if link.is_up:
                    link.send(stone.command(self.term))
        return stone.error()

    def _bury(self, job_log: JobLog, lineage: str) -> None:
        """What fails here is made up for at the next start."""
        if self.directory is None:
            return
        try:
            job_log.bury(self.directory.path, lineage)
        except OSError as error:
            log.error("the log of a deleted job is not removed: %s", error)

    def call(self, request: e.WorkerRequest) -> Future[e.WorkerReply]:
        if isinstance(request, m.CreateJobRequest):
            return self.create(request)
        if isinstance(request, m.DeleteJobRequest):
            return self.delete(request)
        return self.job(request.job).call(request)

    def status(self, name: str) -> m.JobStatus:
        return self.job(name).core.status(time.monotonic())

    def model(self, name: str) -> m.ModelReply:
        told = self.job(name).core.open_job
        return m.ModelReply("" if told is None else told.manifest_json)

    def tick(self) -> None:
        """Time has passed, for every job."""
        actors = list(self._jobs.values())
        jobs = max(1, len(unended(actors)))
        for actor in actors:
            actor.submit(e.Tick(jobs))

    # --- shards ---------------------------------------------------------------------------------------

    def link_up(self, hello: m.Hello, send: Send) -> m.Welcome:
        """A shard has said Hello; commands go to `send`, the Welcome first of all."""
        check_hello(hello, self.shard_count, self._links, self.numbers.incarnations.get(hello.shard, 0))
        with self._lock:
            newest = self.numbers.incarnations.get(hello.shard, 0)
            is_resumed = bool(hello.incarnation) and hello.incarnation == newest
            incarnation = newest if is_resumed else self._next_incarnation(hello.shard)
            self._links[hello.shard] = LinkState(incarnation, hello, send)
            welcome = m.Welcome(self.term, incarnation)
            send(welcome)
            for command in self._tombstones.commands(hello.shard, self.term):
                send(command)
        for actor in list(self._jobs.values()):
            actor.submit(e.ShardUp(hello.shard, incarnation, hello, is_resumed))
        return welcome

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
        if isinstance(report, m.JobRemoved):
            self._tombstones.removed(shard, report)
            return
        actor = self._jobs.get(report.job)
        if actor is not None:
            actor.submit(e.FromShard(shard, report))

    def _send(self, shard: int, command: m.ShardCommand) -> None:
        link = self._links.get(shard)
        if link is not None:
            link.send(command)


def unended(actors: Iterable[JobActor]) -> list[JobActor]:
    """Those that share the shards' staging memory."""
    return [actor for actor in actors if not actor.core.has_ended]
