"""A shard process: its jobs, its kernel thread, and its place beside the coordinator."""

from __future__ import annotations

import gc
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

import sheepfold_wire.messages as m
from sheepfold_server.core.headers import ShardJob
from sheepfold_server.shell.kernels import KernelError, KernelFolder, numeric_fingerprint
from sheepfold_server.shell.opened_job import OpenedJob
from sheepfold_server.shell.part_store import NO_PARTS, PartStore, StoreErrors, give_way
from sheepfold_server.shell.security import Security
from sheepfold_server.shell.shard_actor import ShardActor
from sheepfold_server.shell.shard_log import NoLog, ShardLog, remove_logs
from sheepfold_server.storage.log.errors import LogError
from sheepfold_wire.codecs import Codec
from sheepfold_wire.connection import DEFAULT, Connection
from sheepfold_wire.errors import JobDeleted, JobUnknown, NotReady, StaleTerm
from sheepfold_wire.ids import is_job_name

log = logging.getLogger(__name__)

STAGING_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """What one shard process is started with."""

    shard: int
    shard_count: int
    listen: str = "127.0.0.1:0"
    coordinator: Connection | str = DEFAULT
    advertise: str = ""
    """Address workers reach it at; empty: the one it listens on."""
    device: str = "cpu"
    threads: int = 1
    staging_bytes: int = STAGING_BYTES
    external: str = ""
    """Address that workers with network=external reach it at; empty: the same as the others."""
    security: Security = field(default_factory=Security)
    directory: Path | None = None
    """Where its jobs' logs are; without one, what it holds dies with it."""
    health_listen: str = ""
    """Where health alone is served, in plain text; empty: nowhere but beside the other calls."""


OPENING_SECONDS = 60.0
"""In which every job of an earlier process is open again; compiling one takes a minute at most."""
OPENER_SECONDS = 5.0
"""For a job that is being opened when the process ends; while one is compiled, no call of torch is left."""


class ShardProcess:
    """All jobs of one shard, over one link to the coordinator. Opened by commands, asked by services."""

    def __init__(
        self, config: ShardConfig, send: Callable[[m.ShardReport], None], on_halt: Callable[[str], None]
    ) -> None:
        self.config = config
        self.incarnation, self._term = 0, 0
        """As the coordinator said last."""
        self._send, self._on_halt = send, on_halt
        # OpenMP's number of threads belongs to the thread that asks for it.
        self._kernel = ThreadPoolExecutor(
            1, "kernel", initializer=torch.set_num_threads, initargs=(config.threads,)
        )
        self._checkpoints = ThreadPoolExecutor(1, "checkpoint", initializer=give_way)
        self._folder = KernelFolder(config.device)
        self._actors: dict[str, ShardActor] = {}
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._telling = threading.Lock()
        self._newest: dict[str, m.OpenJob] = {}
        """What was said last of each job, on the newest link."""
        self._openers: list[threading.Thread] = []
        self.halted = ""
        self._young_until = time.monotonic() + OPENING_SECONDS
        """Until then the coordinator may still name jobs, or one is being opened."""

    def hello(self, address: str) -> m.Hello:
        """First report on a link, also after the link was lost."""
        c = self.config
        kernels, note = self._folder.offered()
        return m.Hello(
            incarnation=self.incarnation,
            shard=c.shard,
            shard_count=c.shard_count,
            address=c.advertise or address,
            numeric_fingerprint=numeric_fingerprint(c.device),
            staging_bytes=c.staging_bytes,
            kernels=kernels,
            kernel_note=note,
            external_address=c.external,
            keeps_log=c.directory is not None,
        )

    def command(self, command: m.ShardCommand) -> None:
        """Take a command of the coordinator."""
        match command:
            case m.Welcome():
                self.incarnation, self._term = command.incarnation, command.term
                log.info(
                    "shard %d is incarnation %d of term %d",
                    self.config.shard,
                    command.incarnation,
                    command.term,
                )
            case m.OpenJob():
                self._young_until = time.monotonic() + OPENING_SECONDS
                self._on_open(command)
            case m.RemoveJob():
                self._on_remove(command)
            case _:
                actor = self._actors.get(command.job)
                if actor is None:
                    log.error("%s for job %s, which is not open here", type(command).__name__, command.job)
                else:
                    actor.command(command)

    def _on_open(self, command: m.OpenJob) -> None:
        """A job that cannot be opened is reported; the others go on."""
        with self._telling:
            self._newest[command.job] = command
        known = self._end_lineage(command)
        if known is not None:
            known.command(command)
        else:
            self._beside(lambda: self._open_new(command))

    def _beside(self, work: Callable[[], None]) -> None:
        """Compiling takes a minute, removing files a while, and the link must be read meanwhile."""
        opener = threading.Thread(target=work, name="open", daemon=True)
        self._openers = [*(thread for thread in self._openers if thread.is_alive()), opener]
        opener.start()

    def _end_lineage(self, command: m.OpenJob) -> ShardActor | None:
        """The job as it is open here, unless in an earlier lineage: that is closed."""
        with self._lock:
            known = self._actors.get(command.job)
            if known is None or known.job.lineage == command.lineage or known.job.term > command.term:
                return known
            del self._actors[command.job]
        log.info("job %s: lineage %s ends, %s begins", command.job, known.job.lineage, command.lineage)
        known.close(StaleTerm(f"job {command.job} went back to a checkpoint; attach again"))
        return None

    def _is_wanted(self, command: m.OpenJob) -> bool:
        """Unless its lineage has ended, or its job was deleted, since that was said."""
        with self._telling:
            newest = self._newest.get(command.job)
        return newest is not None and newest.lineage == command.lineage

    def _open_new(self, command: m.OpenJob) -> None:
        with self._opening:
            if not self._is_wanted(command):
                return
            known = self._end_lineage(command)
            try:
                if known is None:
                    self._kernel.submit(
                        gc.collect
                    ).result()  # an ended lineage's tensors go before new ones come
                    known = self._open(command)
            except (KernelError, LogError, *StoreErrors) as error:
                log.error("job %s cannot be opened: %s", command.job, error)
                self._tell_failure(command, f"it cannot be opened here: {error}")
                return
            except Exception as error:
                incident = uuid.uuid4().hex[:12]
                log.exception("incident %s: job %s cannot be opened", incident, command.job)
                kind = type(error).__name__
                why = f"it cannot be opened here ({kind}), incident {incident}: see the log of the shard"
                self._tell_failure(command, why)
                return
            with self._telling:
                # Of an earlier link it would undo what was leased since that of the newest one was answered.
                if self._newest.get(command.job) is command:
                    known.command(command)

    def _newest_term(self, job: str) -> int:
        with self._lock:
            known = self._actors.get(job)
            return max(self._term, 0 if known is None else known.job.term)

    def _on_remove(self, command: m.RemoveJob) -> None:
        """Of this coordinator's newest term only, and of the lineages it names: nothing else is touched."""
        newest = self._newest_term(command.job)
        if command.term < newest or not is_job_name(command.job):
            log.error("job %r is not removed: term %d, the newest is %d", command.job, command.term, newest)
            return
        with self._telling:
            opened = self._newest.get(command.job)
            if opened is not None and opened.lineage in command.lineages:
                del self._newest[command.job]
        self._beside(lambda: self._remove(command))

    def _remove(self, command: m.RemoveJob) -> None:
        """Its memory and its logs; said once nothing is left."""
        with self._opening:
            self._end_deleted(command)
            try:
                self._kernel.submit(gc.collect).result()  # its log is closed, and its tensors go
                if self.config.directory is not None:
                    remove_logs(self.config.directory, command.job, command.lineages)
            except OSError as error:
                log.error(
                    "job %s: its logs are not removed, tried again at the next link: %s", command.job, error
                )
                return
            except (RuntimeError, CancelledError):  # the process is stopping, and is told again
                return
        self._send(m.JobRemoved(command.job, command.lineages[0]))

    def _end_deleted(self, command: m.RemoveJob) -> None:
        with self._lock:
            known = self._actors.get(command.job)
            if known is None or known.job.lineage not in command.lineages:
                return
            del self._actors[command.job]
        log.info("job %s is deleted: lineage %s ends", command.job, known.job.lineage)
        known.close(JobDeleted(f"job {command.job} was deleted"))

    def _tell_failure(self, command: m.OpenJob, why: str) -> None:
        """Of a lineage that has ended it would pause the job of that name that is there now."""
        if self._is_wanted(command):
            self._send(m.ShardFailed(command.job, why, command.term))

    def _open(self, command: m.OpenJob) -> ShardActor:
        opened = OpenedJob.of(command, self.config.shard)
        job, plan, shard = opened.job, opened.plan, opened.shard
        part_bytes, init_bytes = opened.bytes_in(Codec(job.wire.up)), opened.bytes_in(Codec.FP32)
        fixed = ShardJob(
            job=job.name,
            shard=shard,
            incarnation=self.incarnation,
            term=command.term,
            lineage=command.lineage,
            manifest_digest=plan.manifest.digest,
            plan_digest=plan.digest,
            codec=job.wire.up,
            part_bytes=part_bytes,
            init_bytes=init_bytes,
            presence_bytes=-(-len(plan.manifest.tensors) // 8),
            part_slots=self.part_slots(part_bytes, init_bytes),
            open_steps=job.batch.open_steps,
            delay=job.batch.delay,
            holds_split=opened.holds_split,
            counts_skips=opened.counts_skips,
            cosines_every=job.report.cosines_every,
        )
        tensors = opened.tensors(self._folder)
        parts = NO_PARTS if not command.checkpoint_url else PartStore(command, fixed, self._checkpoints)
        job_log = self._log_of(opened)
        actor = ShardActor(fixed, tensors, self._kernel, self._send, self.halt, job_log, parts)
        with self._lock:
            self._actors[job.name] = actor
        self._forget_earlier_lineages(command)
        log.info(
            "job %s: %d rows of 1,024 on shard %d, room for %d parts",
            job.name,
            plan.rows(shard),
            shard,
            fixed.part_slots,
        )
        return actor

    def _log_of(self, opened: OpenedJob) -> ShardLog | NoLog:
        """Raises LogError for a log of another job, model, cut or fingerprint, or a damaged one."""
        level = opened.job.durability.level
        if self.config.directory is None or level == "checkpoint":
            return NoLog()
        belongs_to = opened.belongs_to(numeric_fingerprint(self.config.device))
        directory = opened.log_directory(self.config.directory)
        return ShardLog(directory, belongs_to, opened.bytes_in(Codec.FP32), level == "wal_fsync")

    def _forget_earlier_lineages(self, command: m.OpenJob) -> None:
        """Their logs: this one began with a checkpoint, and has its state in a log of its own."""
        if self.config.directory is None or command.restore is None:
            return
        for path in (self.config.directory / "jobs" / command.job).glob("*"):
            if path.name != command.lineage:
                log.info("job %s: the log of lineage %s is removed", command.job, path.name)
                shutil.rmtree(path, ignore_errors=True)

    def part_slots(self, part_bytes: int, init_bytes: int) -> int:
        """Parts the staging budget holds; 0 if even the initial weights do not fit."""
        budget = self.config.staging_bytes
        if init_bytes > budget:
            return 0
        return min(budget // part_bytes, 1 << 20) if part_bytes else 1 << 20

    def actor(self, job: str) -> ShardActor:
        """The job's actor; raises NotReady for one that may be opened yet, JobUnknown for any other."""
        if self.halted:
            raise NotReady(f"shard {self.config.shard} has halted: {self.halted}")
        with self._lock:
            actor = self._actors.get(job)
        if actor is None and is_job_name(job) and time.monotonic() < self._young_until:
            raise NotReady(f"job {job} is not open on shard {self.config.shard} yet; try again")
        if actor is None:
            raise JobUnknown(
                f"job {job} is not open on shard {self.config.shard}; create it with `sheepfold job create`"
            )
        return actor

    def halt(self, why: str) -> None:
        """Serve nothing more: what this process believes contradicts the coordinator."""
        self.halted = why
        log.critical("shard %d halts: %s", self.config.shard, why)
        self._on_halt(why)

    def close(self) -> None:
        for opener in self._openers:  # left within a call of torch, it would abort the process at its exit
            opener.join(OPENER_SECONDS)
        self._kernel.shutdown(wait=True, cancel_futures=True)
        self._checkpoints.shutdown(wait=True, cancel_futures=True)
