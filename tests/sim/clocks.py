"""Monotonic clocks of processes: each has a beginning and a rate of its own."""

from __future__ import annotations

import random
from dataclasses import dataclass

ORIGIN_SECONDS_MAX = 1_000.0


@dataclass(frozen=True, slots=True)
class Clock:
    """What a process reads, by the time of the world."""

    origin: float = 0.0
    rate: float = 1.0

    @classmethod
    def drawn(cls, chance: random.Random, drift: float) -> Clock:
        """`drift`: the most by which the rate differs from 1; 0: a clock that is the world's."""
        if not drift:
            return cls()
        return cls(chance.uniform(0.0, ORIGIN_SECONDS_MAX), chance.uniform(1.0 - drift, 1.0 + drift))

    def read(self, now: float) -> float:
        return self.origin + self.rate * now

    def until(self, reading: float, now: float) -> float:
        """Seconds of the world until the clock says so; 0 if it has."""
        return max(0.0, (reading - self.read(now)) / self.rate)
