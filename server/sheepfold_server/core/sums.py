"""The sum of an open step on a shard, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

import sheepfold_wire.messages as m
from sheepfold_wire.ids import AttemptId


class SumPhase(Enum):
    FOLDING = auto()
    FINISHING = auto()
    PREPARED = auto()
    DIRECTIONS = auto()
    NORMS = auto()
    APPLYING = auto()


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
