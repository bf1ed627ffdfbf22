"""The sum of an open step on a shard, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

import sheepfold_wire.messages as m
from sheepfold_server.core.records import PreparedSum
from sheepfold_wire.ids import AttemptId


class SumPhase(Enum):
    FOLDING = auto()
    FINISHING = auto()
    PREPARED = auto()
    DIRECTIONS = auto()
    NORMS = auto()
    APPLYING = auto()
    SKIPPING = auto()


@dataclass(slots=True)
class Sum:
    """The sum of one open step."""

    step: int
    phase: SumPhase = SumPhase.FOLDING
    admitted: dict[int, tuple[AttemptId, float]] = field(default_factory=dict)
    """(attempt, factor) by slot."""
    folded: int = 0
    folding_until: int | None = None
    can_refold: bool = True
    """The raw bytes of all folded slots are held."""
    is_broken: bool = False
    """A part is lost: nothing is folded until Refold or Restart."""
    close: m.Close | None = None
    prepared: m.Prepared | None = None
    decision: m.Commit | None = None
    norms: m.Norms | None = None
    fold_seconds: float = 0.0
    awaited: int | None = None
    """Number of the kernel effect whose answer is awaited."""

    def is_prepared_as(self, map_digest: str) -> bool:
        """Whether the logged mean is that of this slot map."""
        prepared = self.prepared
        return self.phase is SumPhase.PREPARED and prepared is not None and prepared.map_digest == map_digest

    @classmethod
    def recovered(cls, record: PreparedSum) -> Sum:
        """Its mean stands in the log; the parts it was folded from are gone."""
        found = cls(record.prepared.step, SumPhase.PREPARED, can_refold=False, prepared=record.prepared)
        found.admitted = {entry.slot: (entry.attempt, 1.0) for entry in record.slots}
        found.folded = len(record.slots)
        return found
