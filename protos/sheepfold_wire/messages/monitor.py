"""What stands in monitor.proto: what dashboards and terminals are told."""

from __future__ import annotations

from dataclasses import dataclass

from sheepfold_wire.ids import NO_ATTEMPT, AttemptId
from sheepfold_wire.messages.bulk import Metric
from sheepfold_wire.messages.coordinator import FileRange, SampleRange, WorkerUsage


@dataclass(frozen=True, slots=True)
class SlotCounts:
    """Where every attempt went: leased = committed + skipped + dropped + outstanding."""

    leased: int = 0
    committed: int = 0
    leased_again: int = 0
    dropped: int = 0
    skipped: int = 0
    outstanding: int = 0


@dataclass(frozen=True, slots=True)
class SlotReport:
    """Who computed one slot of a step."""

    slot: int
    worker: str
    samples: int
    weight: float
    attempts: int
    base_version: int
    loss: float | None = None
    attempt: AttemptId = NO_ATTEMPT
    sample_start: int = 0
    files: tuple[FileRange, ...] = ()
    host: str = ""
    gradient_norm: float = 0.0
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """One slice of a step report, with the norm of the mean gradient before clipping."""

    slice: int
    name: str
    weight_norm: float
    update_norm: float
    gradient_norm: float
    trust_ratio: float
    clamp: str = ""
    slot_gradient_norm: float = 0.0


@dataclass(frozen=True, slots=True)
class ShardStep:
    """What one shard spent on a step."""

    shard: int
    fold_seconds: float
    apply_seconds: float
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class StepReport:
    """One committed or skipped step, as published to dashboards."""

    job: str
    step: int
    version: int
    is_skip: bool
    skip_reason: str
    learning_rate: float
    clip_scale: float
    gradient_norm: float
    samples: int
    weight: float
    wait_seconds: float
    prepare_seconds: float
    apply_seconds: float
    slices: tuple[SliceFacts, ...]
    slots: tuple[SlotReport, ...]
    counts: SlotCounts
    bytes_in: int
    bytes_out: int
    loss: float | None = None
    metrics: tuple[Metric, ...] = ()
    lineage: str = ""
    loss_scale: float = 0.0
    slot_gradient_norm: float = 0.0
    commit_seconds: float = 0.0
    shards: tuple[ShardStep, ...] = ()
    committed_at: float = 0.0

    @property
    def staleness_steps(self) -> int:
        """Steps by which the weights were behind that the oldest contribution was computed at."""
        return max((max(0, self.step - slot.base_version) for slot in self.slots), default=0)


@dataclass(frozen=True, slots=True)
class Change:
    """Something an administrator, an evaluator or the job itself changed while it ran."""

    from_step: int
    author: str
    text: str


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    worker: str
    host: str
    pid: int
    device: str
    seconds_since_seen: float
    slots_committed: int
    samples_committed: int
    holding: int
    versions: str = ""
    zone: str = ""
    refused: int = 0
    usage: WorkerUsage | None = None
    seconds_attached: float = 0.0


@dataclass(frozen=True, slots=True)
class ShardStatus:
    shard: int
    address: str
    incarnation: int
    is_connected: bool
    version: int
    numeric_fingerprint: str
    parameters: int
    part_slots: int
    memory_bytes: int = 0
    queue: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job, for people."""

    number: int
    age_seconds: float
    step: int
    kind: str
    author: str
    text: str


@dataclass(frozen=True, slots=True)
class Drop:
    """How many attempts ended uncounted for one reason."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Quota:
    """One bound of what a job may take; `used` and `max` in the unit that the name says."""

    name: str
    max: float
    used: float
    refused: int


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Everything a terminal or a page shows of a job at one moment."""

    job: str
    state: str
    why: str
    term: int
    lineage: str
    version: int
    stop_steps: int
    open_step: int
    slots_total: int
    slots_admitted: int
    waiting_for: str
    steps_per_second: float
    samples_per_second: float
    samples_committed: int
    samples_skipped: int
    manifest_digest: str
    config_json: str
    counts: SlotCounts
    workers: tuple[WorkerStatus, ...]
    shards: tuple[ShardStatus, ...]
    steps_skipped: int = 0
    changes: tuple[Change, ...] = ()
    skipped_samples: tuple[SampleRange, ...] = ()
    best_version: int = -1
    best_value: float = 0.0
    events: tuple[Event, ...] = ()
    drops: tuple[Drop, ...] = ()
    checkpoint_url: str = ""
    checkpoint_version: int = -1
    checkpoint_age_seconds: float = 0.0
    checkpoint_every_seconds: float = 0.0
    quotas: tuple[Quota, ...] = ()


@dataclass(frozen=True, slots=True)
class StatusRequest:
    job: str


@dataclass(frozen=True, slots=True)
class ModelRequest:
    job: str


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A job's manifest as JSON; empty while no worker has brought a model."""

    manifest_json: str


@dataclass(frozen=True, slots=True)
class ListJobsRequest:
    pass


@dataclass(frozen=True, slots=True)
class ListJobsReply:
    jobs: tuple[str, ...]
    server_version: str = ""
    unix_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """Stream step reports from `from_version` on, as far as they are still held (the newest 512)."""

    job: str
    from_version: int = 0
