"""What a session remembers of its calls: backoff by kind of call, and what of a round is done."""

from __future__ import annotations

from dataclasses import dataclass, field


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
