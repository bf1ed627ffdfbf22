"""What the coordinator knows of one job; the parts of its machine work on this one value."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase

import sheepfold_wire.messages as m
from sheepfold_server.core.attempts import Attempt, Attempts
from sheepfold_server.core.batch import BatchPlan
from sheepfold_server.core.chores import Chores
from sheepfold_server.core.evaluations import Evaluations
from sheepfold_server.core.events import CoordinatorEffect, Note, Persist, ToShard
from sheepfold_server.core.files import FileLedger
from sheepfold_server.core.history import History
from sheepfold_server.core.loss_scale import LossScale
from sheepfold_server.core.pins import Pins
from sheepfold_server.core.quotas import SLOTS_MIN, QuotaBook
from sheepfold_server.core.records import ConfigChanged, CoordinatorRecord, Paused, Rewound
from sheepfold_server.core.schedule import ConfigHistory
from sheepfold_server.core.steps import OpenStep
from sheepfold_server.core.workers import Worker, Workers
from sheepfold_wire.errors import SheepfoldError, WorkerUnknown
from sheepfold_wire.ids import NOTHING_LOADED
from sheepfold_wire.job import Job, Numerics
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.optimizer import tensor_settings
from sheepfold_wire.plan import Plan

RATE_STEPS = 64
"""Steps and samples per second are over at most this many newest steps."""
CHANGES_KEPT = 64
SKIPPED_KEPT = 256


class Life(Enum):
    """Where a job stands."""

    DECLARED = "declared"
    """Configured; the first worker brings the manifest."""
    OPENING = "opening"
    """Shards make room, or are missing."""
    INITIALISING = "initialising"
    """w0 is awaited from the holder of the init lease."""
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(slots=True)
class ShardState:
    incarnation: int = 0
    hello: m.Hello | None = None
    is_up: bool = False
    is_ready: bool = False
    """It has said JobOpened on this link: what it holds is known, and commands are sent."""
    part_slots: int = 0
    """Parts its staging budget holds; 0 until the job is open there."""
    version: int = NOTHING_LOADED
    memory_bytes: int = 0
    queue: int = 0

    def address(self, network: str) -> str:
        """Where workers of that network reach it; "" before its first Hello."""
        if self.hello is None:
            return ""
        is_outside = network == "external" and self.hello.external_address
        return self.hello.external_address if is_outside else self.hello.address

    def note_applied(self, report: m.Applied) -> None:
        self.version = max(self.version, report.step + 1)
        self.memory_bytes, self.queue = report.memory_bytes, report.queue


@dataclass(slots=True)
class Geometry:
    """What follows from the manifest and the shard count."""

    manifest: Manifest
    plan: Plan
    blocks_of_shard: tuple[tuple[int, ...], ...]
    slice_of_block: tuple[int, ...]
    split_shards: frozenset[int]
    """Shards that hold a part of a split slice."""
    maximum_slices: frozenset[int]
    """Slices whose norms are of order inf: their partials are compared, not added."""

    @classmethod
    def of(cls, manifest: Manifest, shard_count: int, job: Job) -> Geometry:
        """Raises BadConfig if the optimizer's groups do not fit the parameters' names."""
        names = [manifest.tensors[index].name for index in manifest.parameters]
        settings = tensor_settings(job.optimizer, names)
        by_tensor = dict(zip(manifest.parameters, settings, strict=True))
        maximum = frozenset(
            s.index for s in manifest.slices if by_tensor[s.tensor].settings.norm_order == "inf"
        )
        split_above_bytes = job.placement.split_above_bytes
        plan = Plan.of(manifest, shard_count, split_above_bytes)
        slice_of_block = [s.index for s in manifest.slices for _ in range(s.blocks)]
        blocks = tuple(
            tuple(f.first_block + i for f in plan.shard_fragments(shard) for i in range(f.blocks))
            for shard in range(shard_count)
        )
        split = frozenset(plan.split_slices)
        split_shards = frozenset(
            s for s in range(shard_count) if any(f.slice in split for f in plan.shard_fragments(s))
        )
        return cls(manifest, plan, blocks, tuple(slice_of_block), split_shards, maximum)

    def frozen_tensors(self, job: Job) -> frozenset[int]:
        """Parameters that `frozen` of the configuration names."""
        if not job.frozen:
            return frozenset()
        tensors = self.manifest.tensors
        return frozenset(
            index
            for index in self.manifest.parameters
            if any(fnmatchcase(tensors[index].name, pattern) for pattern in job.frozen)
        )

    def blocks_of(self, tensors: frozenset[int]) -> frozenset[int]:
        """Global indices of the blocks of these tensors."""
        if not tensors:
            return frozenset()
        slices = {s.index for s in self.manifest.slices if s.tensor in tensors}
        return frozenset(block for block, owner in enumerate(self.slice_of_block) if owner in slices)


@dataclass(slots=True)
class Checkpoints:
    """What is kept of the job beyond the logs."""

    url: str = ""
    """Where; empty: nowhere."""
    kept: m.CheckpointRef | None = None
    """The newest of this history."""
    kept_at: float | None = None
    """When that was stored, or when there was a first version to store."""
    ancestry: tuple[m.CheckpointRef, ...] = ()
    """As in Books."""
    rewinds: tuple[Rewound, ...] = ()
    """As in Books."""
    is_going_back: bool = False
    """A checkpoint to go back to is being looked for: no other is made."""


@dataclass(slots=True)
class JobState:
    config: ConfigHistory
    batch: BatchPlan
    term: int
    lineage: str
    shards: list[ShardState]
    attempts: Attempts
    geometry: Geometry | None = None
    life: Life = Life.DECLARED
    why: str = ""
    version: int = NOTHING_LOADED
    steps: dict[int, OpenStep] = field(default_factory=dict)
    workers: Workers = field(default_factory=Workers)
    stop_after: int | None = None
    """Steps after which an operator stopped the job."""
    loss_scale: LossScale = field(default_factory=LossScale)
    loss_scales: dict[int, float] = field(default_factory=dict)
    """Its value at the newest versions: a step has that of the version it was opened at."""
    samples_committed: int = 0
    samples_skipped: int = 0
    steps_skipped: int = 0
    kernel: str = ""
    """eager or compiled, once the job has been opened on the shards."""
    last_commits: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_STEPS + 1))
    """(time, samples committed so far) at each of the newest commits."""
    files: FileLedger | None = None
    """With data.mode = shards."""
    chores: Chores = field(default_factory=Chores)
    pins: Pins = field(default_factory=Pins)
    evaluations: Evaluations = field(default_factory=Evaluations)
    history: History = field(default_factory=History)
    config_changes: list[ConfigChanged] = field(default_factory=list)
    """All of them, as they were asked for."""
    changes: deque[m.Change] = field(default_factory=lambda: deque(maxlen=CHANGES_KEPT))
    skipped: deque[m.SampleRange] = field(default_factory=lambda: deque(maxlen=SKIPPED_KEPT))
    """Places in the sample stream that no version will cover; with data.mode = shards `files` knows."""
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    quotas: QuotaBook = field(default_factory=QuotaBook)
    is_recovered: bool = False
    """Taken from the log of an earlier term: shards may hold more of it than this process has seen."""
    unusable: SheepfoldError | None = None
    """Why the job cannot run here, whatever is tried."""
    outbox: list[CoordinatorEffect] = field(default_factory=list)
    now: float = 0.0
    records: int = 0

    @property
    def job(self) -> Job:
        """The newest configuration."""
        return self.config.newest

    @property
    def resolved_json(self) -> str:
        """The newest configuration as shards and workers get it: with the kernel that was chosen."""
        job = self.job
        if not self.kernel:
            return job.to_json()
        return job.model_copy(update={"numerics": Numerics(kernel=self.kernel)}).to_json()  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def durability(self) -> str:
        """The level in force: that of the job where every shard keeps a log, else what checkpoints give."""
        keeps = [shard.hello is not None and shard.hello.keeps_log for shard in self.shards]
        if all(keeps):
            return self.job.durability.level
        return "checkpoint" if self.checkpoints.url else "none"

    @property
    def parameters(self) -> int:
        """Of the model; 0 before it is known."""
        return 0 if self.geometry is None else self.geometry.manifest.parameter_elements

    @property
    def paced_seconds(self) -> float:
        """Until the quota lets the next step begin; 0: it may."""
        return self.quotas.wait_seconds(self.now - self.last_commits[-1][0]) if self.last_commits else 0.0

    @property
    def stop_steps(self) -> int:
        asked = self.job.stop.steps
        return asked if self.stop_after is None else min(asked, self.stop_after)

    def known_worker(self, name: str) -> Worker:
        """A worker that just called; raises WorkerUnknown."""
        worker = self.present_worker(name)
        self.workers.seen(name, self.now)
        return worker

    def present_worker(self, name: str) -> Worker:
        """Raises WorkerUnknown."""
        if (worker := self.workers.get(name)) is None:
            raise WorkerUnknown(f"worker {name} is not attached (any more); attach again")
        return worker

    def tell(self, shard: int, command: m.ShardCommand) -> None:
        """To one shard; before it is ready nothing is sent, JobOpened brings it up to date."""
        if self.shards[shard].is_ready:
            self.outbox.append(ToShard(shard, command))

    def tell_all(self, command: m.ShardCommand) -> None:
        for shard in range(len(self.shards)):
            self.tell(shard, command)

    def note(self, text: str) -> None:
        self.outbox.append(Note(text))

    def persist(self, record: CoordinatorRecord) -> int:
        """Ask for a durable record; its number comes back in Persisted."""
        self.records += 1
        self.outbox.append(Persist(self.records, record))
        return self.records

    def event(self, kind: str, text: str) -> None:
        """Something happened: for the log, and for whoever looks."""
        self.history.add(self.now, max(0, self.version), kind, text)
        self.note(text)

    def change(self, from_step: int, author: str, text: str) -> None:
        """Something changed while the job runs: for the log, and for whoever looks."""
        self.changes.append(m.Change(from_step, author, text))
        self.history.add(self.now, from_step, "change", text, author)
        self.note(f"from step {from_step}, by {author}: {text}")

    def pause(self, why: str) -> None:
        if self.life is Life.ENDED:
            self.note(why)
            return
        self.life, self.why = Life.PAUSED, why
        self.persist(Paused(why))
        self.event("state", f"paused: {why}")

    def spoil(self, error: SheepfoldError) -> None:
        """The job cannot run on these shards at all: every worker is told why, instead of waiting."""
        self.unusable = error
        self.pause(error.message)

    def end_attempt(self, attempt: Attempt, why: str, cause: str) -> None:
        """On all shards, and the worker is told at its next call. `cause`: what it is counted under."""
        self.attempts.end(attempt, cause)
        if self.files is not None:
            self.files.give_back(attempt.id)
        self.workers.tell_end(attempt, why)
        self.tell_all(m.EndAttempts(self.name, (attempt.id,), why))

    def refuse(self, attempt: Attempt, why: str) -> None:
        """Its contribution must not count."""
        worker = self.workers.get(attempt.worker)
        if worker is not None:
            worker.refused += 1
        place = f"slot {attempt.slot} of step {attempt.step} by {attempt.worker}"
        self.event("refusal", f"attempt {attempt.id}, {place}, is refused: {why}")

    def forget_worker(self, name: str) -> None:
        """It left, or fell silent: what it was to do and to read is another's."""
        self.workers.leave(name)
        self.chores.left(name)
        if self.files is not None:
            self.files.left(name)

    def tell_pins(self, shard: int | None = None) -> None:
        """Which versions the shards are to keep beyond their age."""
        for index in range(len(self.shards)) if shard is None else (shard,):
            self.tell(index, m.KeepVersions(self.name, self.pins.versions))

    def waking_life(self) -> Life:
        """Where the job stands when it is not paused."""
        if self.version > NOTHING_LOADED:
            return Life.RUNNING
        opened = Life.INITIALISING if self.room() >= SLOTS_MIN else Life.OPENING
        return Life.DECLARED if self.geometry is None else opened

    def loss_scale_of(self, step: int) -> float:
        """In force when the step was opened, also if that was before a restart."""
        opened_at = max(0, step - self.job.batch.open_steps + 1)
        if opened_at == 0 and self.job.loss_scale is not None:
            return self.job.loss_scale.initial
        return self.loss_scales.get(opened_at, self.loss_scale.value)

    def room(self) -> int:
        """Parts that every shard has room for, if no other job takes any."""
        return min(shard.part_slots for shard in self.shards)

    def window(self) -> int:
        """W: live unfolded attempts, of this job's share of that room."""
        return self.quotas.share(self.room())

    def unfolded(self) -> int:
        """Attempts that hold reserved room: not admitted, or admitted and not yet in every sum."""
        waiting = sum(max(0, s.admitted - s.folded_everywhere(len(self.shards))) for s in self.steps.values())
        return self.attempts.unadmitted() + waiting

    def awaits_checkpoint(self) -> bool:
        """Whether nothing is to be computed yet, since nothing of it could be kept."""
        return self.durability == "checkpoint" and self.checkpoints.kept is None

    def all_ready(self) -> bool:
        return all(shard.is_ready for shard in self.shards)
