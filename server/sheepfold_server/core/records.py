"""What the two logs hold, in words of the core; the bytes are the storage's.

A shard's log is its state: initial weights and mean gradients are whole records with a payload, decisions are
notes that say which of them count. The coordinator's log is every decision and every word that outlives it.
"""

from __future__ import annotations

from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.steps import Decided
from sheepfold_wire.ids import AttemptId

# --- of a shard ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InitPart:
    """The initial weights an attempt brought; payload: its fp32 part. They count once LoadInit names it."""

    staged: m.Staged


@dataclass(frozen=True, slots=True)
class PreparedSum:
    """The mean gradient of a step under one slot map; payload: its fp32 part. A Commit makes it count."""

    prepared: m.Prepared
    slots: tuple[m.SlotEntry, ...]


@dataclass(frozen=True, slots=True)
class StateSaved:
    """The whole state at a version; payload: its buffers. What stands before it is not needed any more."""

    version: int
    slices: tuple[m.SliceReport, ...]
    """Of the step that made it."""
    newest_attempt: AttemptId


@dataclass(frozen=True, slots=True)
class VersionServed:
    """A version before the state that follows, as it may be pulled; payload: its fp32 part."""

    version: int


ShardNote = m.LoadInit | m.Commit | m.Totals
"""Written before it is acted on: what was decided elsewhere, so that one shard can replay alone."""

ShardRecord = InitPart | PreparedSum | StateSaved | VersionServed | ShardNote

# --- of the coordinator ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobCreated:
    config_json: str
    lineage: str
    request_id: str
    shard_count: int


@dataclass(frozen=True, slots=True)
class ModelGiven:
    """The first worker brought the model."""

    manifest_json: str


@dataclass(frozen=True, slots=True)
class KernelChosen:
    kernel: str


@dataclass(frozen=True, slots=True)
class InitChosen:
    """This attempt's weights are version 0."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    from_step: int
    changes_json: str
    author: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Paused:
    why: str


@dataclass(frozen=True, slots=True)
class Woken:
    """It goes on, paused or not."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The job ends after that many steps; `why` if it ended before it began."""

    after: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Evaluated:
    request: m.EvaluationRequest


@dataclass(frozen=True, slots=True)
class SamplesSkipped:
    """data.mode = shards: ranges (data epoch, file, first, count) that were refused too often."""

    pieces: tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class TotalsKnown:
    """Norms of the split slices of a decided step."""

    totals: m.Totals


@dataclass(frozen=True, slots=True)
class CheckpointKept:
    """That version is in the store."""

    kept: m.CheckpointRef


@dataclass(frozen=True, slots=True)
class FileAccounts:
    """What a FileLedger knows beyond its workers. A piece: (data epoch, file, first, count)."""

    epoch: int
    """The newest that was begun; -1: none."""
    left: tuple[tuple[int, int, int, int], ...]
    """Of the begun data epochs: what is neither committed nor skipped."""
    committed: tuple[tuple[int, int], ...]
    """(data epoch, samples)."""
    skipped: tuple[tuple[int, int, int, int], ...]
    """The newest."""
    samples_skipped: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """As they are once `version` is published and no later step is decided."""

    version: int
    config_json: str
    """As the job was created."""
    changes: tuple[ConfigChanged, ...]
    stop_after: int | None
    attempts_committed: int
    attempts_skipped: int
    attempts_dropped: int
    leased_again: int
    samples_committed: int
    samples_skipped: int
    steps_skipped: int
    skipped: tuple[m.SampleRange, ...]
    loss_scale: float
    loss_scale_applied: int
    loss_scales: tuple[tuple[int, float], ...]
    """(version, scale) of the newest versions."""
    best_version: int
    best_value: float
    since_best: int
    newest_evaluated: int
    sequences: int = 0
    """Asynchronous: places in the sample stream below this were leased, but for those `returned`."""
    returned: tuple[int, ...] = ()
    files: FileAccounts | None = None
    gaps: tuple[m.SampleRange, ...] = ()
    """Places of the sample stream that are not read."""
    ancestry: tuple[m.CheckpointRef, ...] = ()
    """As in Books, at that version."""


@dataclass(frozen=True, slots=True)
class Rewound:
    request_id: str
    reply: m.RewindReply


@dataclass(frozen=True, slots=True)
class Books:
    """A record of the coordinator's log: the whole job at a version. What stands before it is not needed."""

    lineage: str
    shard_count: int
    kernel: str
    manifest_json: str
    ledger: Ledger
    kept: m.CheckpointRef | None
    """The newest checkpoint of this history."""
    ancestry: tuple[m.CheckpointRef, ...] = ()
    """The checkpoints at which this history changed its lineage, oldest first. Of the older lineages what was
    kept up to there is of this history; shards that have nothing of the present one begin with the last."""
    paused: str = ""
    """Why, if it was paused."""
    why: str = ""
    """What made a new lineage; empty for the same one."""
    rewinds: tuple[Rewound, ...] = ()
    """The newest calls that went back, each answered as it was then if it is repeated."""


CoordinatorRecord = (
    JobCreated
    | ModelGiven
    | KernelChosen
    | InitChosen
    | ConfigChanged
    | Paused
    | Woken
    | StopAsked
    | Evaluated
    | SamplesSkipped
    | Decided
    | TotalsKnown
    | CheckpointKept
    | Books
)
