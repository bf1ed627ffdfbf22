"""What the roles say to each other, as frozen values.

Each class stands in `v1/*.proto` under the same name with the same fields (a test compares them), so
`convert.to_proto` and `convert.from_proto` need no code per message. The core handles these values
directly; the simulation delivers them without a socket.

Units: `*_seconds` seconds; `samples` counts samples; `weight` is the job's own unit (samples or tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

from sheepfold_wire.ids import AttemptId


# --- what a contribution states about itself -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """What a worker says of one contribution; equal on all shards, or the attempt is refused.

    `present`: one bit per tensor of the manifest, lowest bit of the first byte first.
    """

    samples: int
    weight: float
    base_version: int
    present: bytes
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class PushHeader:
    """First frame of a push. Everything that can be refused is refused on this alone."""

    job: str
    attempt: AttemptId
    shard: int
    incarnation: int
    term: int
    manifest_digest: str
    plan_digest: str
    codec: str
    payload_bytes: int
    payload_digest: bytes
    facts: Facts


@dataclass(frozen=True, slots=True)
class PushReply:
    """The part is staged. `duplicate` is set if it had been staged already."""

    duplicate: bool


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Ask for one version; `version` None means the newest committed one."""

    job: str
    shard: int
    incarnation: int
    manifest_digest: str
    plan_digest: str
    codec: str
    version: int | None = None
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PullHeader:
    """First frame of a pull; the same version is repeated in the last frame."""

    version: int
    payload_bytes: int


# --- coordinator -> shard --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer to Hello: the incarnation this shard process has from now on."""

    term: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class OpenJob:
    """Make room for a job. Sent again, unchanged, after a shard or a link came back."""

    job: str
    lineage: str
    term: int
    shard_count: int
    manifest_json: str
    config_json: str


@dataclass(frozen=True, slots=True)
class Expect:
    """A lease was given out: room for its part is reserved. `step` None: given at admission."""

    job: str
    attempt: AttemptId
    is_init: bool
    step: int | None = None
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class EndAttempts:
    """These attempts never count; drop what is staged of them."""

    job: str
    attempts: tuple[AttemptId, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class LoadInit:
    """The init attempt is staged on every shard: its part becomes version 0."""

    job: str
    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class Admit:
    """Attempt `attempt` is slot `slot` of step `step`, on all shards: sum += factor * gradient."""

    job: str
    step: int
    slot: int
    attempt: AttemptId
    factor: float


@dataclass(frozen=True, slots=True)
class Refold:
    """A shard lost these admitted parts; everyone forgets them and folds again from raw bytes."""

    job: str
    step: int
    lost_slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Restart:
    """RESTART(t): zero the sum of the step and end all its attempts."""

    job: str
    step: int


@dataclass(frozen=True, slots=True)
class SlotEntry:
    """One row of a step's slot map."""

    slot: int
    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class Close:
    """All slots are admitted. Nothing pushed afterwards can enter this map."""

    job: str
    term: int
    step: int
    map_digest: str
    slots: tuple[SlotEntry, ...]
    divisor: float


@dataclass(frozen=True, slots=True)
class Commit:
    """The one decision on a step, the same for every shard."""

    job: str
    term: int
    step: int
    map_digest: str
    is_skip: bool
    learning_rate: float
    clip_scale: float
    present: bytes


@dataclass(frozen=True, slots=True)
class SliceTotals:
    """Sums of squares of one split slice over all its blocks, added in block order in fp64."""

    slice: int
    weight_squares: float
    update_squares: float


@dataclass(frozen=True, slots=True)
class Totals:
    """The norms of split slices: pass 2 of the step may run."""

    job: str
    step: int
    slices: tuple[SliceTotals, ...]


@dataclass(frozen=True, slots=True)
class CloseJob:
    """The job has ended; weights stay readable until the shard stops."""

    job: str


ShardCommand = (
    Welcome | OpenJob | Expect | EndAttempts | LoadInit | Admit | Refold | Restart | Close | Commit | Totals | CloseJob
)

# --- shard -> coordinator --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a shard process on its link. `incarnation` 0: this process has none yet."""

    incarnation: int
    shard: int
    shard_count: int
    address: str
    numeric_fingerprint: str
    staging_bytes: int


@dataclass(frozen=True, slots=True)
class JobOpened:
    """The shard holds the job's buffers. `part_slots`: parts of the largest codec that fit the budget."""

    job: str
    part_slots: int
    version: int


@dataclass(frozen=True, slots=True)
class Staged:
    """A part is received whole and checked. `sum_of_squares`: per own block, in the plan's order."""

    job: str
    attempt: AttemptId
    payload_digest: bytes
    facts: Facts
    sum_of_squares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PartRefused:
    """A part was whole but must not count: `count` elements of `tensor` are NaN or infinite."""

    job: str
    attempt: AttemptId
    tensor: str
    count: int


@dataclass(frozen=True, slots=True)
class Folded:
    """Slots 0..folded-1 are in the sum; `can_refold`: the raw bytes of all of them are still held."""

    job: str
    step: int
    folded: int
    can_refold: bool


@dataclass(frozen=True, slots=True)
class PartLost:
    """An admitted part can no longer be folded here."""

    job: str
    step: int
    slot: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """The sum of the step is complete (and logged). Sums of squares per own block, in plan order."""

    job: str
    step: int
    map_digest: str
    is_finite: bool
    max_abs: float
    sum_of_squares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BlockNorms:
    """Sums of squares of one block, by global block index."""

    block: int
    weight_squares: float
    update_squares: float


@dataclass(frozen=True, slots=True)
class Norms:
    """Pass 1 is done; these are the partial sums of the split slices held here."""

    job: str
    step: int
    blocks: tuple[BlockNorms, ...]


@dataclass(frozen=True, slots=True)
class SliceReport:
    """The layer-wise facts of one step."""

    slice: int
    weight_norm: float
    update_norm: float
    trust_ratio: float


@dataclass(frozen=True, slots=True)
class Applied:
    """Version step + 1 (0 after init: step = -1) is visible on this shard."""

    job: str
    step: int
    slices: tuple[SliceReport, ...]
    fold_seconds: float = 0.0
    apply_seconds: float = 0.0
    encode_seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """The shard cannot go on with the job; `why` is one sentence for the operator."""

    job: str
    why: str


ShardReport = (
    Hello | JobOpened | Staged | PartRefused | Folded | PartLost | Prepared | Norms | Applied | ShardFailed
)

# --- worker and admin <-> coordinator ---------------------------------------------------------------


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


# --- monitor ----------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """One slice of a step report, with the norm of the mean gradient before clipping."""

    slice: int
    name: str
    weight_norm: float
    update_norm: float
    gradient_norm: float
    trust_ratio: float


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


@dataclass(frozen=True, slots=True)
class StatusRequest:
    job: str


@dataclass(frozen=True, slots=True)
class ListJobsRequest:
    pass


@dataclass(frozen=True, slots=True)
class ListJobsReply:
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """Stream step reports from `from_version` on, as far as they are still held (the newest 512)."""

    job: str
    from_version: int = 0


@dataclass(frozen=True, slots=True)
class DigestRequest:
    """Digests of a shard's state at its current version, block by block."""

    job: str


@dataclass(frozen=True, slots=True)
class DigestEntry:
    index: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class DigestReply:
    version: int
    entries: tuple[DigestEntry, ...]

