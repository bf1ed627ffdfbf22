"""What stands in coordinator.proto: calls of workers and administrators."""

from __future__ import annotations

from dataclasses import dataclass

from sheepfold_wire.ids import AttemptId


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


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """One of the worker's attempts that will not count, and why."""

    attempt: AttemptId
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """Ask for work. `holding`: attempts the worker knows it holds; a lost reply is answered again."""

    job: str
    worker: str
    holding: tuple[AttemptId, ...] = ()
    wait_seconds: float = 0.0


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


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """State of the job, newest version, and the worker's attempts that ended since the last answer."""

    state: str
    version: int
    ends: tuple[AttemptEnd, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """Hand leases back (all of the worker's if `attempts` is empty); `is_leaving` detaches it."""

    job: str
    worker: str
    attempts: tuple[AttemptId, ...] = ()
    is_leaving: bool = False
    reason: str = "released"


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
