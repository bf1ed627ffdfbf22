"""A shard that was started anew: its log, read from the beginning, through the same steps as live.

Pure: where a payload stands in the log is an opaque number, and the kernel's effects are those of the core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.events import ApplyUpdate, ComputeDirections, SkipStep
from sheepfold_server.core.records import (
    InitPart,
    PreparedSum,
    ShardNote,
    ShardRecord,
    StateSaved,
    VersionServed,
)
from sheepfold_wire.ids import NO_ATTEMPT, NOTHING_LOADED, AttemptId

Place = int
"""Where a record stands in the log."""
NOWHERE: Place = -1


@dataclass(frozen=True, slots=True)
class LoadLogged:
    """The payload at `place` becomes version 0."""

    place: Place


@dataclass(frozen=True, slots=True)
class RestoreState:
    """The payload of `saved`, at `place`, is the state."""

    saved: StateSaved
    place: Place


@dataclass(frozen=True, slots=True)
class RestoreSum:
    """The payload at `place` is the mean gradient of the step."""

    step: int
    place: Place


@dataclass(frozen=True, slots=True)
class ServeLogged:
    """The payload at `place` is that version as it may be pulled."""

    version: int
    place: Place


@dataclass(frozen=True, slots=True)
class VersionDone:
    """That version is whole; `encoded` if it may be asked for."""

    version: int


ReplayEffect = (
    LoadLogged
    | RestoreState
    | RestoreSum
    | SkipStep
    | ComputeDirections
    | ApplyUpdate
    | ServeLogged
    | VersionDone
)


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where a shard stands after its log."""

    version: int = NOTHING_LOADED
    prepared: PreparedSum | None = None
    """Of step `version`, restored: it may be decided."""
    init: AttemptId | None = None
    """Initial weights that are not loaded; the newest."""
    init_place: Place = NOWHERE
    newest_attempt: AttemptId = NO_ATTEMPT
    """The newest the log names: whoever still pushes it need not wait."""
    slices: tuple[m.SliceReport, ...] = ()
    """What the newest step reported."""
    oldest_version: int = 0
    """The oldest that is still encoded."""


def may_save(version: int, saved_version: int | None, open_steps: int) -> bool:
    """Whether a state may be saved now, at which a log lets go of what stands before the saved state before.

    A restart begins with that one, and must find every version that may be pulled behind it: gradients of the
    next step may be computed at a version as old as there are open steps.
    """
    return saved_version is None or version - saved_version >= open_steps


class Replay:
    """Says, record by record, what to do. A decision is acted on when all it needs has been read.

    A log that was cut at its beginning starts with a saved state; what stands before that is passed over.
    """

    def __init__(self, holds_split: bool, counts_skips: bool) -> None:
        self.version: int = NOTHING_LOADED
        self.first_version: int = NOTHING_LOADED
        """The oldest there is anything of."""
        self._served: list[int] = []
        self._holds_split, self._counts_skips = holds_split, counts_skips
        self._inits: dict[AttemptId, Place] = {}
        self._prepared: tuple[PreparedSum, Place] | None = None
        """The newest of step `version`."""
        self._decision: m.Commit | None = None
        self._newest_attempt = NO_ATTEMPT

    def take(self, record: ShardRecord, place: Place) -> list[ReplayEffect]:
        """The next record of the log."""
        match record:
            case InitPart(staged):
                self._newest_attempt = max(self._newest_attempt, staged.attempt)
                if self.version == NOTHING_LOADED:
                    self._inits[staged.attempt] = place
            case StateSaved(version) if self.version == NOTHING_LOADED:
                self.version, self.first_version = version, min((version, *self._served))
                self._newest_attempt = max(self._newest_attempt, record.newest_attempt)
                return [RestoreState(record, place), VersionDone(version)]
            case VersionServed(version) if self.version == NOTHING_LOADED:
                self._served.append(version)
                return [ServeLogged(version, place)]
            case m.LoadInit():
                if self.version == NOTHING_LOADED and record.attempt in self._inits:
                    self.version = self.first_version = 0
                    return [LoadLogged(self._inits[record.attempt]), VersionDone(0)]
            case PreparedSum(prepared, slots):
                self._newest_attempt = max(self._newest_attempt, *(entry.attempt for entry in slots))
                if prepared.step == self.version:
                    self._prepared = record, place
            case m.Commit() if record.step == self.version:
                return self._on_commit(record)
            case m.Totals() if record.step == self.version and self._decision is not None:
                return self._apply(self._decision, record.slices)
        return []

    def _on_commit(self, commit: m.Commit) -> list[ReplayEffect]:
        if commit.is_skip:
            return [SkipStep(commit.step, self._counts_skips), *self._next()]
        if self._holds_split:
            self._decision = commit
            return []
        return self._apply(commit, ())

    def _apply(self, commit: m.Commit, totals: tuple[m.SliceTotals, ...]) -> list[ReplayEffect]:
        if self._prepared is None or self._prepared[0].prepared.map_digest != commit.map_digest:
            raise LookupError(
                f"step {commit.step} is decided with map {commit.map_digest}, and its mean gradient is not "
                "in the log"
            )
        restore = RestoreSum(commit.step, self._prepared[1])
        return [restore, ComputeDirections(commit), ApplyUpdate(commit, totals), *self._next()]

    def _next(self) -> list[ReplayEffect]:
        self.version += 1
        self._prepared, self._decision = None, None
        return [VersionDone(self.version)]

    def finish(self) -> list[ReplayEffect]:
        """After the last record: the mean of a step that may be decided is made ready."""
        if self._prepared is None:
            return []
        return [RestoreSum(self.version, self._prepared[1])]

    def oldest_version(self, open_steps: int) -> int:
        """That may be pulled once all is read."""
        return max(0, self.first_version, self.version - open_steps)

    def recovered(self, slices: tuple[m.SliceReport, ...], oldest_version: int) -> Recovered:
        init = max(self._inits, default=None) if self.version == NOTHING_LOADED else None
        return Recovered(
            version=self.version,
            prepared=None if self._prepared is None else self._prepared[0],
            init=init,
            init_place=NOWHERE if init is None else self._inits[init],
            newest_attempt=self._newest_attempt,
            slices=slices,
            oldest_version=oldest_version,
        )


def replayed(
    replay: Replay, log: Iterable[tuple[ShardRecord, Place]], decided: Iterable[ShardNote]
) -> Iterator[ReplayEffect]:
    """All that a log gives, then what its coordinator decided and the log does not know of.

    It ends early where the mean gradient of such a step is lost. Raises LookupError for a log that is at odds
    with itself.
    """
    for record, place in log:
        yield from replay.take(record, place)
    for decision in decided:
        try:
            effects = replay.take(decision, NOWHERE)
        except LookupError:
            return
        yield from effects
