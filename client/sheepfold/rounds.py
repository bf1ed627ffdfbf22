"""What a session remembers of its calls: whose shards are its own, backoff, and what of a round is done."""

from __future__ import annotations

from dataclasses import dataclass, field

import sheepfold_wire.messages as m
from sheepfold_wire.ids import AttemptId

OUTCOMES_REMEMBERED = 64


def remember_end(ends: dict[AttemptId, m.AttemptEnd], end: m.AttemptEnd) -> None:
    """Among the newest ones."""
    ends[end.attempt] = end
    while len(ends) > OUTCOMES_REMEMBERED:
        del ends[next(iter(ends))]


@dataclass(frozen=True, slots=True)
class Share:
    """The part of one session where `count` of them push and pull for one worker; alone it has all."""

    rank: int = 0
    count: int = 1

    def of(self, shards: int) -> range:
        """Its shards."""
        return range(self.rank, shards, self.count)

    def owner(self, shard: int) -> int:
        """The rank whose shard it is."""
        return shard % self.count


ALONE = Share()


@dataclass(slots=True)
class Retries:
    """Backoff of one kind of call."""

    failures: int = 0
    not_before: float = 0.0
    checksums: int = 0


@dataclass(slots=True)
class Progress:
    """What of the current round is done, by shard."""

    done: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)
    versions: dict[int, int] = field(default_factory=dict)
