"""What a shard's core asks for."""

from __future__ import annotations

from dataclasses import dataclass, field

import sheepfold_wire.messages as m
from sheepfold_server.core.records import PreparedSum, ShardNote
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.ids import AttemptId


@dataclass(frozen=True, slots=True)
class ReceiveBody:
    """Receive and check the body of this push, which what was pushed ahead of it belongs to."""

    token: int
    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class ReceiveAhead:
    """Keep the body of this push with what else is pushed ahead of the attempt's part."""

    token: int
    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class AnswerPush:
    token: int
    is_duplicate: bool


@dataclass(frozen=True, slots=True)
class RefusePush:
    token: int
    error: SheepfoldError


@dataclass(frozen=True, slots=True)
class Report:
    report: m.ShardReport


@dataclass(frozen=True, slots=True)
class DropParts:
    """Free the bytes kept under these attempts."""

    attempts: tuple[AttemptId, ...]


@dataclass(frozen=True, slots=True)
class LoadState:
    """The bytes of this attempt become weights and statistics of version 0 (then Loaded)."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class FoldSlots:
    """sum += factor * gradient, in this order (then FoldDone). `is_first`: the sum begins here."""

    step: int
    fold: int
    is_first: bool
    parts: tuple[tuple[int, AttemptId, float], ...]
    """(slot, attempt, factor) of each part."""


@dataclass(frozen=True, slots=True)
class FinishSum:
    """sum /= divisor, with norms and finite test (then SumReady).

    `compared`: attempts in slot order, whose inner products with the mean go into Applied; often none.
    """

    step: int
    fold: int
    divisor: float
    compared: tuple[AttemptId, ...] = ()


@dataclass(frozen=True, slots=True)
class LogInit:
    """Write the init part to the shard's log (then InitLogged)."""

    staged: m.Staged


@dataclass(frozen=True, slots=True)
class Append:
    """Write the prepare record of the step to the shard's log, with the mean (then Appended)."""

    step: int
    fold: int
    record: PreparedSum


@dataclass(frozen=True, slots=True)
class AppendNote:
    """Write what was decided to the shard's log, before it is acted on."""

    note: ShardNote


@dataclass(frozen=True, slots=True)
class ComputeDirections:
    """Pass 1 (then DirectionsReady)."""

    decision: m.Commit


@dataclass(frozen=True, slots=True)
class ApplyUpdate:
    """Pass 2, and encode version step + 1 (then WeightsReady). `totals`: of the split slices."""

    decision: m.Commit
    totals: tuple[m.SliceTotals, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class DiscardSum:
    """Forget the sum of the step."""

    step: int


@dataclass(frozen=True, slots=True)
class SkipStep:
    """Forget the sum of a skipped step (then Skipped); `counts`: the bias counters advance all the same."""

    step: int
    counts: bool


@dataclass(frozen=True, slots=True)
class KeepVersion:
    """A skipped step: version step + 1 has the bits of version step."""

    step: int


@dataclass(frozen=True, slots=True)
class StoreEarlier:
    """Make the state at an earlier version again from the log, and store it likewise (then PartStored)."""

    version: int
    older: tuple[int, ...]
    """As of StorePart."""


@dataclass(frozen=True, slots=True)
class StorePart:
    """Take a copy of the whole state and store it as this shard's part of a checkpoint (then PartStored)."""

    version: int
    older: tuple[int, ...] = ()
    """Versions whose encoded copies are stored with it: gradients are computed at them yet."""


@dataclass(frozen=True, slots=True)
class RetireVersions:
    """Encoded copies below `oldest` are no longer served, but for the versions in `kept`."""

    oldest: int
    kept: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ServePull:
    token: int
    version: int


@dataclass(frozen=True, slots=True)
class RefusePull:
    token: int
    error: SheepfoldError


@dataclass(frozen=True, slots=True)
class ComputeDigest:
    token: int
    version: int


@dataclass(frozen=True, slots=True)
class Halt:
    """Our own bookkeeping contradicts the coordinator's: stop before anything wrong is served."""

    why: str


ShardEffect = (
    ReceiveBody
    | ReceiveAhead
    | AnswerPush
    | RefusePush
    | Report
    | DropParts
    | LoadState
    | FoldSlots
    | FinishSum
    | LogInit
    | Append
    | AppendNote
    | ComputeDirections
    | ApplyUpdate
    | DiscardSum
    | SkipStep
    | KeepVersion
    | StoreEarlier
    | StorePart
    | RetireVersions
    | ServePull
    | RefusePull
    | ComputeDigest
    | Halt
)
