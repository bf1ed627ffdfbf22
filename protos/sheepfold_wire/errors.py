"""Everything a sheepfold role can answer instead of doing what was asked.

    SheepfoldError
    ├── PreconditionError      FAILED_PRECONDITION  never the same call again
    │   ├── ManifestMismatch, PlanMismatch, ConfigMismatch, DataMismatch   stop: something differs
    │   ├── StepClosed, LeaseEnded                                         drop it, ask for a lease
    │   └── WindowTooSmall, NumericsMismatch, NoCheckpoint, CheckpointFailed, JobHasEnded
    ├── InvalidError           INVALID_ARGUMENT     never
    │   ├── ShapeMismatch, BadFrame, BadConfig
    │   └── NonFinite                                                      give the slot back, go on
    ├── ContributionConflict   ALREADY_EXISTS       never
    ├── AbortedError           ABORTED
    │   ├── StaleIncarnation, StaleTerm, WorkerUnknown                     attach again
    │   ├── PushInProgress, AttemptNotAnnounced                            wait, then the same bytes
    │   ├── RegionGone                                                     the same bytes, in frames
    │   └── AheadGone                                                      the whole part
    ├── ChunkChecksumMismatch  DATA_LOSS            the same bytes again, at most 3 times
    ├── VersionGone            OUT_OF_RANGE         pull the newest version
    ├── JobUnknown             NOT_FOUND            never
    │   └── JobDeleted
    ├── TokenRefused           UNAUTHENTICATED      never: take the whole address that `sheepfold up` prints
    ├── Forbidden              PERMISSION_DENIED    never: the call is for another role
    ├── ServerUntrusted        UNAUTHENTICATED      never; the caller's own finding, before it sends anything
    ├── Overloaded             RESOURCE_EXHAUSTED   wait, then the same bytes
    ├── NotReady               UNAVAILABLE          the same call again, with backoff
    └── InternalError          INTERNAL             a bug: once more at most

gRPC's own library never answers with INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION,
ABORTED, OUT_OF_RANGE or DATA_LOSS: with one of these a sheepfold role has spoken. Every other status may
come from the network; a reason is trusted only beside DOMAIN.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto
from typing import ClassVar

DOMAIN = "sheepfold"
MESSAGE_CHARACTERS_MAX = 1000


class Status(IntEnum):
    """The canonical gRPC status numbers, so that nobody needs grpc to name one."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Action(Enum):
    """What the caller should do with an answer."""

    STOP = auto()
    """Never the same call again; tell the user what differs."""
    DROP = auto()
    """Drop the contribution and ask for a lease."""
    GIVE_BACK = auto()
    """Give the slot back, then go on."""
    SEND_AGAIN = auto()
    """The same bytes again, with backoff, while the lease lives."""
    WAIT = auto()
    """Wait as told, then the same bytes again."""
    ATTACH = auto()
    """Attach again, then the whole part again if it is still held."""
    PULL_NEWEST = auto()
    """Pull the newest committed version."""


class SheepfoldError(Exception):
    """Root of the tree. The text says what was wrong, with numbers, and the remedy."""

    status: ClassVar[Status] = Status.INTERNAL
    reason: ClassVar[str] = "SHEEPFOLD"
    action: ClassVar[Action] = Action.STOP

    @property
    def message(self) -> str:
        """The text as it goes over the wire: gRPC's metadata bound would swallow a longer one whole."""
        text = str(self)
        return text if len(text) <= MESSAGE_CHARACTERS_MAX else text[: MESSAGE_CHARACTERS_MAX - 3] + "..."


class PreconditionError(SheepfoldError):
    """The request contradicts the state of the job."""

    status = Status.FAILED_PRECONDITION
    reason = "PRECONDITION"


class ManifestMismatch(PreconditionError):
    """Another model than the job's; the text names the first difference."""

    reason = "MANIFEST_MISMATCH"


class PlanMismatch(PreconditionError):
    """The sender cuts the model for another number of shards or another `split_above_bytes`."""

    reason = "PLAN_MISMATCH"


class ConfigMismatch(PreconditionError):
    """Another configuration than the job's; the text names the first key that differs."""

    reason = "CONFIG_MISMATCH"


class DataMismatch(PreconditionError):
    """Another data set than the job's."""

    reason = "DATA_MISMATCH"


class StepClosed(PreconditionError):
    """A gradient for a step already closed or committed."""

    reason = "STEP_CLOSED"
    action = Action.DROP


class LeaseEnded(PreconditionError):
    """The attempt expired, was superseded, refused or handed back."""

    reason = "LEASE_ENDED"
    action = Action.DROP


class WindowTooSmall(PreconditionError):
    """The staging budget of a shard does not hold two parts."""

    reason = "WINDOW_TOO_SMALL"


class NumericsMismatch(PreconditionError):
    """A shard computes with another kernel, device type or torch version than the others."""

    reason = "NUMERICS_MISMATCH"


class NoCheckpoint(PreconditionError):
    """Nothing that was kept holds the version asked for."""

    reason = "NO_CHECKPOINT"


class CheckpointFailed(PreconditionError):
    """A checkpoint could not be stored or read; the text names the file and what is wrong with it."""

    reason = "CHECKPOINT_FAILED"


class JobHasEnded(PreconditionError):
    """The job is over; there is no more work."""

    reason = "JOB_ENDED"


class InvalidError(SheepfoldError):
    """The request is wrong in itself."""

    status = Status.INVALID_ARGUMENT
    reason = "INVALID"


class ShapeMismatch(InvalidError):
    """A part of another length, or with something in the padding."""

    reason = "SHAPE_MISMATCH"


class BadFrame(InvalidError):
    """A frame that is malformed, out of order, or missing."""

    reason = "BAD_FRAME"


class BadConfig(InvalidError):
    """A job file, change or option that is refused; names key, value and allowed range."""

    reason = "BAD_CONFIG"


class NonFinite(InvalidError):
    """NaN or infinite elements in a contribution; names the tensor and the count."""

    reason = "NON_FINITE"
    action = Action.GIVE_BACK


class ContributionConflict(SheepfoldError):
    """The same attempt with other bytes or other facts."""

    status = Status.ALREADY_EXISTS
    reason = "CONTRIBUTION_CONFLICT"


class AbortedError(SheepfoldError):
    """A race was lost; the text says what to do before trying again."""

    status = Status.ABORTED
    reason = "ABORTED"
    action = Action.ATTACH


class StaleIncarnation(AbortedError):
    """The request means an earlier process of this shard."""

    reason = "STALE_INCARNATION"


class StaleTerm(AbortedError):
    """The request means an earlier term of the coordinator."""

    reason = "STALE_TERM"


class WorkerUnknown(AbortedError):
    """The coordinator does not know this worker (any more): it was silent for too long."""

    reason = "WORKER_UNKNOWN"


class PushInProgress(AbortedError):
    """The same attempt is being received on another stream."""

    reason = "PUSH_IN_PROGRESS"
    action = Action.WAIT


class AttemptNotAnnounced(AbortedError):
    """The coordinator has not (yet) told this shard of the attempt."""

    reason = "ATTEMPT_NOT_ANNOUNCED"
    action = Action.WAIT


class RegionGone(AbortedError):
    """The shard does not hold this shared memory (any more)."""

    reason = "REGION_GONE"
    action = Action.SEND_AGAIN


class AheadGone(AbortedError):
    """The shard does not hold what was pushed ahead of a part (any more)."""

    reason = "AHEAD_GONE"
    action = Action.SEND_AGAIN


class ChunkChecksumMismatch(SheepfoldError):
    """Bytes were altered on the way."""

    status = Status.DATA_LOSS
    reason = "CHUNK_CHECKSUM_MISMATCH"
    action = Action.SEND_AGAIN


class VersionGone(SheepfoldError):
    """A version that is no longer served."""

    status = Status.OUT_OF_RANGE
    reason = "VERSION_GONE"
    action = Action.PULL_NEWEST


class JobUnknown(SheepfoldError):
    """No such job here."""

    status = Status.NOT_FOUND
    reason = "JOB_UNKNOWN"


class JobDeleted(JobUnknown):
    """No such job here any more; the text says who deleted it, and what is kept of it."""

    reason = "JOB_DELETED"


class TokenRefused(SheepfoldError):
    """The call carries no credential, or one that the server does not take (any more)."""

    status = Status.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class Forbidden(SheepfoldError):
    """The credential is good, and the call is for another role."""

    status = Status.PERMISSION_DENIED
    reason = "FORBIDDEN"


class ServerUntrusted(SheepfoldError):
    """The server did not prove that it is the one that the address names; nothing was sent to it."""

    status = Status.UNAUTHENTICATED
    reason = "SERVER_UNTRUSTED"


class Overloaded(SheepfoldError):
    """A stated limit is reached; the text names it."""

    status = Status.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"
    action = Action.WAIT


class NotReady(SheepfoldError):
    """Not yet: shards are missing, a version is not applied, or the role is stopping."""

    status = Status.UNAVAILABLE
    reason = "NOT_READY"
    action = Action.SEND_AGAIN


class InternalError(SheepfoldError):
    """A bug of ours; the text carries an incident number found in the log of the role."""

    status = Status.INTERNAL
    reason = "INTERNAL"


def all_errors() -> tuple[type[SheepfoldError], ...]:
    """Every class of the tree, parents before children."""
    found: list[type[SheepfoldError]] = [SheepfoldError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return tuple(found)


def error_for(reason: str, message: str) -> SheepfoldError | None:
    """The error a peer named by `reason`, with its text; None for a reason this version does not know."""
    for kind in all_errors():
        if kind.reason == reason:
            return kind(message)
    return None
