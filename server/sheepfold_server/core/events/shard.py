"""What a shard's core is told."""

from __future__ import annotations

from dataclasses import dataclass

import sheepfold_wire.messages as m


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the coordinator about this job."""

    command: m.ShardCommand


@dataclass(frozen=True, slots=True)
class PushOpened:
    """The header of a push has arrived; its body waits for ReceiveBody."""

    token: int
    header: m.PushHeader


@dataclass(frozen=True, slots=True)
class PartCheck:
    """What the staging pass found. `nonfinite_tensor` "" if all elements are finite."""

    sum_of_squares: tuple[float, ...]
    nonfinite_tensor: str = ""
    nonfinite_count: int = 0


@dataclass(frozen=True, slots=True)
class PushReceived:
    """The whole part has arrived and is checked; its bytes are kept under the attempt."""

    token: int
    check: PartCheck


@dataclass(frozen=True, slots=True)
class PushBroken:
    """The body will not arrive whole; its bytes are gone."""

    token: int


@dataclass(frozen=True, slots=True)
class PullAsked:
    """`version` None: the newest. Answered by ServePull or RefusePull, at once or when it is applied."""

    token: int
    version: int | None


@dataclass(frozen=True, slots=True)
class PullGone:
    """The caller of a pull no longer waits."""

    token: int


@dataclass(frozen=True, slots=True)
class DigestAsked:
    """Answered by ComputeDigest between two steps."""

    token: int


@dataclass(frozen=True, slots=True)
class InitLogged:
    """The init part is in the shard's log."""

    staged: m.Staged


@dataclass(frozen=True, slots=True)
class Loaded:
    """The init part is the state now."""


@dataclass(frozen=True, slots=True)
class FoldDone:
    """Slots below `folded` are in the sum of the step. `fold`: the number of the FoldSlots effect."""

    step: int
    fold: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FoldFailed:
    """The part of `slot` could not be folded; the sum is unusable."""

    step: int
    fold: int
    slot: int


@dataclass(frozen=True, slots=True)
class SumReady:
    step: int
    fold: int
    is_finite: bool
    max_abs: float
    sum_of_squares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Appended:
    """The prepare record of the step is as durable as the job's level demands."""

    step: int
    fold: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """The decision to skip the step is logged, and its sum is gone."""

    step: int


@dataclass(frozen=True, slots=True)
class DirectionsReady:
    """Pass 1 is done; block sums of the split slices held here, by global block index."""

    step: int
    split_blocks: tuple[m.BlockNorms, ...]


@dataclass(frozen=True, slots=True)
class WeightsReady:
    """Pass 2 and encoding are done."""

    step: int
    slices: tuple[m.SliceReport, ...]
    apply_seconds: float = 0.0
    encode_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PartStored:
    """The part of a checkpoint is stored, or cannot be."""

    saved: m.PartSaved


ShardEvent = (
    Command
    | PushOpened
    | PushReceived
    | PushBroken
    | PullAsked
    | PullGone
    | DigestAsked
    | InitLogged
    | Loaded
    | FoldDone
    | FoldFailed
    | SumReady
    | Appended
    | Skipped
    | DirectionsReady
    | WeightsReady
    | PartStored
)
