"""The parts a shard has been told of, and what became of each; memory is bounded by the lease window."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

import sheepfold_wire.messages as m
from sheepfold_wire.errors import AttemptNotAnnounced, LeaseEnded, StepClosed
from sheepfold_wire.ids import NO_ATTEMPT, AttemptId


class PartState(Enum):
    EXPECTED = auto()
    RECEIVING = auto()
    STAGED = auto()
    ADMITTED = auto()
    FOLDED = auto()
    """In the sum; the raw bytes are kept while there is room, for a refold."""
    COMMITTED = auto()
    """Only the header is kept, to answer a late retry."""


@dataclass(slots=True)
class Part:
    attempt: AttemptId
    is_init: bool
    step: int | None
    state: PartState = PartState.EXPECTED
    token: int | None = None
    header: m.PushHeader | None = None
    has_bytes: bool = False


class Parts:
    """Parts by attempt. Bytes are held for at most `part_slots` of them (and one init part)."""

    def __init__(self, part_slots: int) -> None:
        self._part_slots = part_slots
        self._parts: OrderedDict[AttemptId, Part] = OrderedDict()
        self._tokens: dict[int, AttemptId] = {}
        self.newest = NO_ATTEMPT

    def expect(self, attempt: AttemptId, is_init: bool, step: int | None) -> None:
        if attempt not in self._parts:
            self._parts[attempt] = Part(attempt, is_init, step)
        self.note_announced((attempt,))

    def note_announced(self, attempts: Iterable[AttemptId]) -> None:
        """The coordinator has spoken of these: whoever pushes them need not wait for more."""
        self.newest = max(self.newest, *attempts)

    def is_announced(self, attempt: AttemptId) -> bool:
        return attempt <= self.newest

    def find(self, attempt: AttemptId, version: int) -> Part:
        """The part a push is for; raises StepClosed, LeaseEnded, AttemptNotAnnounced."""
        part = self._parts.get(attempt)
        if part is not None:
            return part
        if not self.is_announced(attempt):
            raise AttemptNotAnnounced(
                f"attempt {attempt} is not announced yet, newest is {self.newest}; wait, then send it again"
            )
        if version >= 0:
            raise StepClosed(
                f"attempt {attempt} has ended, step {version} is open; drop it and ask for a lease"
            )
        raise self.ended_error()

    def ended_error(self) -> LeaseEnded:
        return LeaseEnded("the attempt was ended by the coordinator; drop it and ask for a lease")

    def receive(self, part: Part, token: int, header: m.PushHeader) -> Part | None:
        """Its body is on the way; returns as `hold`."""
        part.state, part.token, part.header = PartState.RECEIVING, token, header
        self._tokens[token] = part.attempt
        return self.hold(part)

    def hold(self, part: Part) -> Part | None:
        """Bytes of it are on the way; returns a folded part whose bytes must make room, if there is none."""
        part.has_bytes = True
        held = [p for p in self._parts.values() if p.has_bytes]
        if len(held) <= self._part_slots:
            return None
        oldest = next((p for p in held if p.state is PartState.FOLDED), None)
        if oldest is not None:
            oldest.has_bytes = False
        return oldest

    def of_token(self, token: int) -> Part | None:
        """The part being received on that stream; None if it has ended since."""
        part = self._parts.get(self._tokens.pop(token, NO_ATTEMPT))
        return part if part is not None and part.token == token else None

    def broken(self, token: int) -> None:
        """The stream broke; the same attempt may be sent again."""
        part = self.of_token(token)
        if part is not None and part.state is PartState.RECEIVING:
            self.refused(part)

    def refused(self, part: Part) -> None:
        part.state, part.token, part.header, part.has_bytes = PartState.EXPECTED, None, None, False

    def staged(self, part: Part) -> None:
        part.state, part.token = PartState.STAGED, None

    def admit(self, attempt: AttemptId, step: int) -> bool:
        """Whether the attempt was staged here and now is admitted."""
        part = self._parts.get(attempt)
        if part is None or part.state is not PartState.STAGED:
            return False
        part.state, part.step = PartState.ADMITTED, step
        return True

    def folded(self, attempts: Iterable[AttemptId]) -> None:
        for attempt in attempts:
            self._parts[attempt].state = PartState.FOLDED

    def is_admitted(self, attempt: AttemptId) -> bool:
        part = self._parts.get(attempt)
        return part is not None and part.state in (PartState.ADMITTED, PartState.FOLDED, PartState.COMMITTED)

    def forget_admission(self, attempts: Iterable[AttemptId]) -> None:
        for attempt in attempts:
            if self.is_admitted(attempt):
                self._parts[attempt].state = PartState.STAGED

    def of_step(self, step: int) -> list[AttemptId]:
        return [
            p.attempt for p in self._parts.values() if p.step == step and p.state is not PartState.COMMITTED
        ]

    def recover_init(self, attempt: AttemptId) -> None:
        """Initial weights that were found in the log."""
        self._parts[attempt] = Part(attempt, True, None, PartState.STAGED, has_bytes=True)

    def of_init(self) -> list[AttemptId]:
        return [p.attempt for p in self._parts.values() if p.is_init]

    def is_staged_init(self, attempt: AttemptId) -> bool:
        part = self._parts.get(attempt)
        return part is not None and part.is_init and part.state is PartState.STAGED

    def uncommitted(self) -> list[AttemptId]:
        """All whose bytes may still be wanted, but for initial weights."""
        return [
            p.attempt
            for p in self._parts.values()
            if p.state is not PartState.COMMITTED and not self.is_staged_init(p.attempt)
        ]

    def unadmitted(self) -> list[AttemptId]:
        return [p.attempt for p in self._parts.values() if not self.is_admitted(p.attempt)]

    def drop(self, attempts: Iterable[AttemptId]) -> tuple[AttemptId, ...]:
        """Forget these; returns those whose bytes are held."""
        gone = [self._parts.pop(attempt) for attempt in attempts if attempt in self._parts]
        return tuple(part.attempt for part in gone if part.has_bytes)

    def commit(self, step: int, keep_since: int) -> tuple[AttemptId, ...]:
        """Parts of the step keep only their header, those before `keep_since` nothing; returns freed ones."""
        freed = []
        for part in list(self._parts.values()):
            if part.step == step:
                if part.has_bytes:
                    freed.append(part.attempt)
                part.state, part.has_bytes = PartState.COMMITTED, False
            elif part.state is PartState.COMMITTED and part.step is not None and part.step < keep_since:
                del self._parts[part.attempt]
        return tuple(freed)
