"""An open step on the coordinator: which attempt is which slot, and how far the shards are."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

import xxhash

import sheepfold_wire.messages as m
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.loss_scale import UNSCALED


class Phase(Enum):
    OPEN = auto()
    """Slots are leased, staged, admitted."""
    CLOSED = auto()
    """CLOSE is out; PREPARED is awaited from every shard."""
    DECIDED = auto()
    """The decision is being persisted."""
    APPLYING = auto()
    """COMMIT is out; norms and APPLIED are awaited."""


@dataclass(slots=True)
class SlotState:
    winner: Attempt | None = None
    """The first attempt of the slot that was staged on every shard."""
    attempts: int = 0
    """Leases given out so far."""


@dataclass(slots=True)
class OpenStep:
    step: int
    slots: list[SlotState]
    opened_at: float
    phase: Phase = Phase.OPEN
    sequence: int | None = None
    """Asynchronous mode: the place in the sample stream that became this step."""
    admitted: int = 0
    """Slots below this are admitted on all shards, in order."""
    folded: dict[int, int] = field(default_factory=dict)
    cannot_refold: set[int] = field(default_factory=set)
    closed_at: float = 0.0
    decided_at: float = 0.0
    durable_at: float = 0.0
    close: m.Close | None = None
    prepared: dict[int, m.Prepared] = field(default_factory=dict)
    decision: m.Commit | None = None
    skip_reason: str = ""
    loss_scale: float = UNSCALED
    overflowed: bool = False
    """A gradient was not finite at `loss_scale`: the step is skipped and the scale halved."""
    gradient_norm: float = 0.0
    block_squares: list[float] = field(default_factory=list)
    norms: dict[int, m.Norms] = field(default_factory=dict)
    totals: m.Totals | None = None
    applied: dict[int, m.Applied] = field(default_factory=dict)

    def winners(self) -> list[Attempt]:
        """The admitted attempts, in slot order."""
        return [slot.winner for slot in self.slots[: self.admitted] if slot.winner is not None]

    def folded_everywhere(self, shards: int) -> int:
        """Slots in the sum of every shard."""
        return min((self.folded.get(shard, 0) for shard in range(shards)), default=0)

    def is_full(self) -> bool:
        return self.admitted == len(self.slots)

    def is_wanted(self) -> bool:
        """Whether its slots are still to be computed."""
        return self.phase is Phase.OPEN and not self.skip_reason

    def reopen(self, from_slot: int) -> None:
        """Forget close and admissions from `from_slot` on; winners stay until their part is known lost."""
        self.phase, self.close, self.admitted = Phase.OPEN, None, from_slot
        for slot in self.slots[from_slot:]:
            if slot.winner is not None:
                slot.winner.is_admitted = False
        self.prepared.clear()
        self.folded.clear()


def map_digest(job: str, step: int, slots: tuple[m.SlotEntry, ...]) -> str:
    """What a slot map is known by: XXH3-128 of its text, hex."""
    text = f"{job}/{step}:" + ",".join(f"{entry.slot}={entry.attempt}" for entry in slots)
    return xxhash.xxh3_128_hexdigest(text.encode())
