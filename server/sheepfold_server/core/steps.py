"""An open step on the coordinator: which attempt is which slot, and how far the shards are."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import xxhash

import sheepfold_wire.messages as m
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.loss_scale import UNSCALED
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.messages import Facts


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


@dataclass(frozen=True, slots=True)
class SlotTaken:
    """One slot of a decided step: what remains of its attempt."""

    attempt: AttemptId
    worker: str
    leases: int
    facts: Facts
    pieces: tuple[tuple[int, int, int, int], ...] = ()
    """data.mode = shards: (data epoch, file, first, count) of what it covers."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision on a step and all that follows from it for the accounts; the coordinator's log record."""

    commit: m.Commit
    slots: tuple[SlotTaken, ...]
    """Empty for a step given up before it was full."""
    sequence: int | None
    skip_reason: str
    loss_scale: float
    overflowed: bool
    gradient_norm: float
    block_squares: bytes = b""
    """Sums of squares of the mean gradient by global block, fp64 little endian."""


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

    def decided(self, pieces: Callable[[AttemptId], tuple[tuple[int, int, int, int], ...]]) -> Decided:
        """What the log keeps of it once the decision is made; `pieces`: of files that an attempt covers."""
        assert self.decision is not None
        taken = tuple(
            SlotTaken(attempt.id, attempt.worker, slot.attempts, attempt.facts, pieces(attempt.id))
            for slot, attempt in zip(self.slots, self.winners(), strict=False)
            if attempt.facts is not None
        )
        return Decided(
            commit=self.decision,
            slots=taken if self.is_full() else (),
            sequence=self.sequence,
            skip_reason=self.skip_reason,
            loss_scale=self.loss_scale,
            overflowed=self.overflowed,
            gradient_norm=self.gradient_norm,
            block_squares=struct.pack(f"<{len(self.block_squares)}d", *self.block_squares),
        )

    @classmethod
    def recovered(cls, record: Decided, slots: int, attempts: list[Attempt], now: float) -> OpenStep:
        """A decided step as a new coordinator finds it in its log; `attempts`: those of `record.slots`."""
        step = cls(record.commit.step, [SlotState() for _ in range(slots)], now, loss_scale=record.loss_scale)
        for slot, (attempt, taken) in zip(step.slots, zip(attempts, record.slots, strict=True), strict=False):
            slot.winner, slot.attempts = attempt, taken.leases
        step.admitted, step.phase, step.decision = len(attempts), Phase.APPLYING, record.commit
        step.closed_at = step.decided_at = step.durable_at = now
        step.sequence, step.skip_reason, step.overflowed = (
            record.sequence,
            record.skip_reason,
            record.overflowed,
        )
        step.gradient_norm = record.gradient_norm
        step.block_squares = list(struct.unpack(f"<{len(record.block_squares) // 8}d", record.block_squares))
        return step

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

    def reopen(self, from_slot: int) -> list[Attempt]:
        """Forget close and admissions from `from_slot` on; returns the winners that wait again."""
        self.phase, self.close, self.admitted = Phase.OPEN, None, from_slot
        self.prepared.clear()
        self.folded.clear()
        return [slot.winner for slot in self.slots[from_slot:] if slot.winner is not None]


def map_digest(job: str, step: int, slots: tuple[m.SlotEntry, ...]) -> str:
    """What a slot map is known by: XXH3-128 of its text, hex."""
    text = f"{job}/{step}:" + ",".join(f"{entry.slot}={entry.attempt}" for entry in slots)
    return xxhash.xxh3_128_hexdigest(text.encode())
