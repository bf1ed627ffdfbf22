"""What the coordinator's core is told, and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.records import Books, CoordinatorRecord, Ledger
from sheepfold_wire.errors import SheepfoldError

# --- events ----------------------------------------------------------------------------------------------

WorkerRequest = (
    m.CreateJobRequest
    | m.AttachRequest
    | m.LeaseRequest
    | m.HeartbeatRequest
    | m.ReleaseRequest
    | m.ConfigChangeRequest
    | m.ControlRequest
    | m.RewindRequest
    | m.CheckpointRequest
    | m.DeleteJobRequest
    | m.ChoreRequest
    | m.EvaluationRequest
    | m.PinRequest
)


@dataclass(frozen=True, slots=True)
class FromWorker:
    """A call of a worker, reader or administrator; answered by exactly one Answer or Refuse."""

    caller: int
    request: WorkerRequest


@dataclass(frozen=True, slots=True)
class ShardUp:
    """A shard's link is up. `is_resumed`: the same process as before; it still holds its buffers."""

    shard: int
    incarnation: int
    hello: m.Hello
    is_resumed: bool


@dataclass(frozen=True, slots=True)
class ShardDown:
    shard: int


@dataclass(frozen=True, slots=True)
class FromShard:
    shard: int
    report: m.ShardReport


@dataclass(frozen=True, slots=True)
class Persisted:
    """The record of that number is as durable as the job's level demands."""

    number: int


@dataclass(frozen=True, slots=True)
class IndexStored:
    """The checkpoint of that version exists from now on; `why` if it could not be stored."""

    version: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointFound:
    """Answer to FindCheckpoint; `found` None: there is none that verifies."""

    found: m.CheckpointRef | None
    ledger: Ledger | None
    there_are: tuple[int, ...]
    """Versions that are kept, newest first."""
    new_lineage: str
    """A name that no lineage had before."""
    passed_over: tuple[str, ...] = ()
    """Newer ones that are damaged, and how."""
    numeric_fingerprint: str = ""
    """What the shards computed it with."""


@dataclass(frozen=True, slots=True)
class BooksFound:
    """Answer to FindBooks; `books` None: the coordinator's log does not lead to that version."""

    books: Books | None
    config_json: str
    """Resolved, as it was when that version was the newest."""
    why: str = ""
    """What the log leads to, if not to that."""


@dataclass(frozen=True, slots=True)
class CheckpointVerified:
    """Answer to VerifyCheckpoint; `why` if not every file is as its index says."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class CallLost:
    """The connection of that call broke before it was answered."""

    caller: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. `jobs`: of this coordinator that have not ended; at least 1."""

    jobs: int = 1


CoordinatorEvent = (
    FromWorker
    | CallLost
    | ShardUp
    | ShardDown
    | FromShard
    | Persisted
    | IndexStored
    | CheckpointFound
    | BooksFound
    | CheckpointVerified
    | Tick
)

# --- effects ---------------------------------------------------------------------------------------------

WorkerReply = (
    m.CreateJobReply
    | m.AttachReply
    | m.LeaseReply
    | m.HeartbeatReply
    | m.ReleaseReply
    | m.ConfigChangeReply
    | m.ControlReply
    | m.RewindReply
    | m.CheckpointReply
    | m.RestoreReply
    | m.DeleteJobReply
    | m.ChoreReply
    | m.EvaluationReply
    | m.PinReply
)


@dataclass(frozen=True, slots=True)
class Answer:
    caller: int
    reply: WorkerReply


@dataclass(frozen=True, slots=True)
class Refuse:
    caller: int
    error: SheepfoldError


@dataclass(frozen=True, slots=True)
class ToShard:
    shard: int
    command: m.ShardCommand


@dataclass(frozen=True, slots=True)
class Persist:
    """Write a record of the coordinator's log; Persisted(number) follows when it is durable."""

    number: int
    record: CoordinatorRecord


@dataclass(frozen=True, slots=True)
class Publish:
    """Give a step report to dashboards; dropping it loses nothing of the job."""

    report: m.StepReport


@dataclass(frozen=True, slots=True)
class StoreIndex:
    """Make a checkpoint of these parts exist, then remove the oldest beyond `keep` (then IndexStored)."""

    books: Books
    parts: tuple[m.PartSaved, ...]
    """By shard."""
    term: int
    applied_steps: int
    config_json: str
    numeric_fingerprint: str
    keep: int | None
    """None: nothing is removed, since it is made to go back to."""


@dataclass(frozen=True, slots=True)
class FindCheckpoint:
    """Look for the newest one that verifies, or for that of `version` (then CheckpointFound).

    `sources`: (lineage, its newest version that belongs to this history), the newest lineage first.
    """

    sources: tuple[tuple[str, int | None], ...]
    version: int | None


@dataclass(frozen=True, slots=True)
class FindBooks:
    """Read in the coordinator's log what it knew when `version` was the newest (then BooksFound)."""

    version: int


@dataclass(frozen=True, slots=True)
class VerifyCheckpoint:
    """Read every file of it (then CheckpointVerified)."""

    ref: m.CheckpointRef


@dataclass(frozen=True, slots=True)
class Delete:
    """Write down that the job is deleted, answer, and remove it: nobody hears of it any more.

    If it cannot be written down, the caller is told why, and the job stays as it was.
    """

    caller: int
    request: m.DeleteJobRequest
    lineages: tuple[str, ...]
    """All that are known of the job, the present one first."""
    reply: m.DeleteJobReply


@dataclass(frozen=True, slots=True)
class BeginAgain:
    """Another coordinator takes this one's place, by these books, which are durable: nobody hears of this
    one any more."""

    books: Books


@dataclass(frozen=True, slots=True)
class Note:
    """One line for the operator's log."""

    text: str


CoordinatorEffect = (
    Answer
    | Refuse
    | ToShard
    | Persist
    | Publish
    | StoreIndex
    | FindCheckpoint
    | FindBooks
    | VerifyCheckpoint
    | Delete
    | BeginAgain
    | Note
)
