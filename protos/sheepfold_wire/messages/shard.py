"""What stands in shard.proto of the link between coordinator and shard."""

from __future__ import annotations

from dataclasses import dataclass

from sheepfold_wire.ids import AttemptId
from sheepfold_wire.messages.bulk import Facts
from sheepfold_wire.messages.deletion import JobRemoved, RemoveJob


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer to Hello: the incarnation this shard process has from now on."""

    term: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """One checkpoint below a checkpoint url: the index of `version` that the coordinator's `term` wrote."""

    lineage: str
    version: int
    term: int


@dataclass(frozen=True, slots=True)
class OpenJob:
    """Make room for a job. Sent again, unchanged, after a shard or a link came back."""

    job: str
    lineage: str
    term: int
    shard_count: int
    manifest_json: str
    config_json: str
    checkpoint_url: str = ""
    restore: CheckpointRef | None = None


@dataclass(frozen=True, slots=True)
class Expect:
    """A lease was given out: room for its part is reserved. `step` None: given at admission."""

    job: str
    attempt: AttemptId
    is_init: bool
    step: int | None = None


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
    """Partials of a split slice's norms: sums of squares, of magnitudes, or the largest, by norm order."""

    slice: int
    weight_partial: float
    update_partial: float
    gradient_squares: float


@dataclass(frozen=True, slots=True)
class Totals:
    """The norms of split slices: pass 2 of the step may run."""

    job: str
    step: int
    slices: tuple[SliceTotals, ...]


@dataclass(frozen=True, slots=True)
class KeepVersions:
    """These versions stay served beyond their age; an empty list ends every pin."""

    job: str
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    """Store the state of this version, which no later step may have changed yet."""

    job: str
    version: int


ShardCommand = (
    Welcome
    | OpenJob
    | Expect
    | EndAttempts
    | LoadInit
    | Admit
    | Refold
    | Restart
    | Close
    | Commit
    | Totals
    | KeepVersions
    | SaveCheckpoint
    | RemoveJob
)


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a shard process on its link. `incarnation` 0: this process has none yet."""

    incarnation: int
    shard: int
    shard_count: int
    address: str
    numeric_fingerprint: str
    staging_bytes: int
    kernels: tuple[str, ...] = ("eager",)
    kernel_note: str = ""
    external_address: str = ""
    keeps_log: bool = False


@dataclass(frozen=True, slots=True)
class JobOpened:
    """The shard holds the job's buffers. `part_slots`: parts in the job's codec that fit the budget."""

    job: str
    part_slots: int
    version: int
    term: int
    prepared: str = ""


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
    """Partials of one block's norms, by global block index; see SliceTotals."""

    block: int
    weight_partial: float
    update_partial: float


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
    clamp: str = ""


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
    memory_bytes: int = 0
    queue: int = 0
    slot_products: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PartSaved:
    """The shard's part of a checkpoint is stored and was read back; `why` if it is not."""

    job: str
    version: int
    file: str
    bytes: int
    sha256: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """The shard cannot go on with the job; `why` is one sentence for the operator."""

    job: str
    why: str
    term: int


ShardReport = (
    Hello
    | JobOpened
    | Staged
    | PartRefused
    | Folded
    | PartLost
    | Prepared
    | Norms
    | Applied
    | PartSaved
    | ShardFailed
    | JobRemoved
)
