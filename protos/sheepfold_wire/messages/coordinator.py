"""What stands in coordinator.proto: calls of workers and administrators."""

from __future__ import annotations

from dataclasses import dataclass

from sheepfold_wire.ids import AttemptId
from sheepfold_wire.messages.bulk import Metric


@dataclass(frozen=True, slots=True)
class CreateJobRequest:
    """Idempotent by `request_id`. Without a manifest the first worker that attaches supplies it."""

    request_id: str
    config_json: str
    manifest_json: str = ""


@dataclass(frozen=True, slots=True)
class CreateJobReply:
    """`is_new` is False if the same job existed already."""

    job: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """The opening call of a worker. `worker` is chosen by the client, unique to the process.

    A reader takes no leases and may leave the manifest out; the answer then carries it.
    """

    job: str
    worker: str
    host: str
    pid: int
    manifest_json: str
    is_reader: bool = False
    data_samples: int = 0
    data_fingerprint: str = ""
    device: str = "cpu"
    network: str = ""
    versions: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class ShardTraffic:
    """Traffic of a worker with one shard since it attached first, measured by the worker."""

    shard: int
    bytes_up: int
    seconds_up: float
    bytes_down: int
    seconds_down: float
    way: str = ""
    """How payloads go at present: grpc, shared memory, or this process."""


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """Where a worker's time goes, measured by it, since it attached first."""

    slot_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    round_trip_seconds: float = 0.0
    traffic: tuple[ShardTraffic, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardAddress:
    """Where a shard listens, and which process of it is meant."""

    shard: int
    address: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class AttachReply:
    """What a worker needs to know of the job. `version` -1: not initialised yet."""

    job: str
    worker: str
    term: int
    lineage: str
    version: int
    manifest_json: str
    config_json: str
    shards: tuple[ShardAddress, ...]
    heartbeat_seconds: float
    durability: str = "none"


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How one of the worker's attempts ended. `number` counts the ends of this worker, from 1."""

    attempt: AttemptId
    reason: str
    is_committed: bool = False
    number: int = 0


@dataclass(frozen=True, slots=True)
class FileRange:
    """Consecutive samples of one file of the data set."""

    file: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """Ask for work. `holding`: attempts the worker knows it holds; a lost reply is answered again."""

    job: str
    worker: str
    holding: tuple[AttemptId, ...] = ()
    wait_seconds: float = 0.0
    ends_heard: int = 0
    plans_ahead: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """Permission and instruction to compute one contribution.

    `is_init`: push the initial weights (fp32). Otherwise compute at version `base_version` over samples
    `[sample_start, sample_start + sample_count)` of the job's sample stream with `seed`.
    """

    attempt: AttemptId
    is_init: bool
    base_version: int
    sample_start: int
    sample_count: int
    seed: int
    lease_seconds: float
    step: int | None = None
    slot: int | None = None
    sequence: int = 0
    stride: int = 0
    files: tuple[FileRange, ...] = ()
    loss_scale: float = 0.0


@dataclass(frozen=True, slots=True)
class LeaseReply:
    """A lease, or why there is none: `state` is leased, wait, paused or ended; `why` one sentence."""

    state: str
    version: int
    why: str
    lease: Lease | None = None
    ends: tuple[AttemptEnd, ...] = ()


@dataclass(frozen=True, slots=True)
class AttemptProgress:
    """Work units done so far (micro-batches, bytes); only growth matters."""

    attempt: AttemptId
    done: int


@dataclass(frozen=True, slots=True)
class HeartbeatRequest:
    job: str
    worker: str
    progress: tuple[AttemptProgress, ...] = ()
    ends_heard: int = 0
    usage: WorkerUsage | None = None
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """State of the job, newest version, and the worker's attempts that ended."""

    state: str
    version: int
    ends: tuple[AttemptEnd, ...] = ()
    held_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """Hand leases back (all of the worker's if `attempts` is empty); `is_leaving` detaches it.

    `staged`: attempts that every shard has said are staged; they are not handed back.
    """

    job: str
    worker: str
    attempts: tuple[AttemptId, ...] = ()
    is_leaving: bool = False
    reason: str = "released"
    staged: tuple[AttemptId, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseReply:
    released: int


@dataclass(frozen=True, slots=True)
class ConfigChangeRequest:
    """Change live keys from a step on. `changes_json`: {"optimizer.lr.peak": 0.01}."""

    request_id: str
    job: str
    from_step: int
    changes_json: str
    author: str


@dataclass(frozen=True, slots=True)
class ConfigChangeReply:
    from_step: int


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """`action`: pause, resume or stop (stop: the open step is finished, no new one begins)."""

    job: str
    action: str
    author: str


@dataclass(frozen=True, slots=True)
class ControlReply:
    state: str


@dataclass(frozen=True, slots=True)
class SampleRange:
    """Consecutive positions of the job's sample stream."""

    start: int
    count: int


@dataclass(frozen=True, slots=True)
class RewindRequest:
    """Go back to a version that a checkpoint holds, as a new lineage; steps after it are forgotten."""

    request_id: str
    job: str
    to_version: int
    skip: tuple[SampleRange, ...] = ()
    author: str = ""


@dataclass(frozen=True, slots=True)
class RewindReply:
    lineage: str
    version: int


@dataclass(frozen=True, slots=True)
class CheckpointRequest:
    """Keep the newest version now; answered once it is stored."""

    job: str
    author: str


@dataclass(frozen=True, slots=True)
class CheckpointReply:
    version: int


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """Take up a job that is not here from its checkpoint, as a new lineage; `version` None: the newest."""

    request_id: str
    job: str
    version: int | None = None
    author: str = ""
    accepts_new_numerics: bool = False


@dataclass(frozen=True, slots=True)
class RestoreReply:
    """`passed_over`: newer checkpoints that are damaged, and how."""

    lineage: str
    version: int
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoreRequest:
    """May this worker do a chore that one of them does for every `every` versions?"""

    job: str
    worker: str
    name: str
    every: int


@dataclass(frozen=True, slots=True)
class ChoreReply:
    """`is_yours`: do it now. `is_over`: nobody needs to ask before version `next_version`."""

    is_yours: bool
    is_over: bool
    next_version: int
    version: int


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What an evaluation of a version found; the job's stop rule goes by it."""

    job: str
    version: int
    metrics: tuple[Metric, ...]
    author: str


@dataclass(frozen=True, slots=True)
class EvaluationReply:
    """How the version stands by the job's stop.metric; -1: the job has none, or none was heard of."""

    is_best: bool
    best_version: int
    since_best: int


@dataclass(frozen=True, slots=True)
class PinRequest:
    """Keep the newest version served for `seconds`; 0 ends the pin of that name."""

    job: str
    pin: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PinReply:
    """The version that is pinned; -1 if a pin was ended."""

    version: int
