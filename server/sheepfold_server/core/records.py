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


ShardNote = m.LoadInit | m.Commit | m.Totals
"""Written before it is acted on: what was decided elsewhere, so that one shard can replay alone."""

ShardRecord = InitPart | PreparedSum | StateSaved | ShardNote

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
)
