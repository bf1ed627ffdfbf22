"""When workers are killed, and what a window of time was worth: no clock, no processes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Seconds = float


@dataclass(frozen=True)
class Kill:
    """`victim`, in [0, 1): how far down the list of workers; so fleets of any size draw the same."""

    at: Seconds
    victim: float


def kills(seed: int, apart: Seconds, window: Seconds) -> list[Kill]:
    """Those of a window, from its begin: as many as `apart` says, each moment as likely as any other."""
    chance = random.Random(seed)
    drawn = [Kill(chance.uniform(0.0, window), chance.random()) for _ in range(round(window / apart))]
    return sorted(drawn, key=lambda kill: kill.at)


@dataclass(frozen=True)
class Told:
    """`step` steps are complete, the last since `at`; or a vote threw a worker's part of one away.

    `share`: of the global batch; of a complete step less than 1 where workers were missing.
    """

    at: Seconds
    step: int
    share: float = 1.0
    is_counted: bool = True

    def line(self) -> str:
        return f"{self.at} {self.step} {self.share} {int(self.is_counted)}\n"

    @staticmethod
    def of(line: str) -> Told:
        at, step, share, is_counted = line.split()
        return Told(float(at), int(step), float(share), is_counted == "1")


@dataclass(frozen=True)
class Account:
    """Of one window, or of several; shares of steps count as such."""

    seconds: Seconds = 0.0
    useful: float = 0.0
    repeated: float = 0.0
    """Completed steps that were made again, since what they led to was lost."""
    discarded: float = 0.0
    """Computed, then thrown away by a vote."""
    recoveries: list[Seconds] = field(default_factory=list)
    """From each kill to the next completed step, also one that is made again."""

    def __add__(self, other: Account) -> Account:
        return Account(
            self.seconds + other.seconds,
            self.useful + other.useful,
            self.repeated + other.repeated,
            self.discarded + other.discarded,
            self.recoveries + other.recoveries,
        )

    @property
    def steps_per_second(self) -> float:
        return self.useful / self.seconds


def account(began: Told, told: Iterable[Told], killed: Sequence[Seconds], ended: Seconds) -> Account:
    """From a completed step to `ended`; `told` and `killed` are in order, on the clock of both.

    A kill after which no step came until `ended` takes until then.
    """
    highest, useful, repeated, discarded, done = began.step, 0.0, 0.0, 0.0, list[Seconds]()
    for each in told:
        if not each.is_counted:
            discarded += each.share
            continue
        done.append(each.at)
        if each.step > highest:
            highest, useful = each.step, useful + each.share
        else:
            repeated += each.share
    recoveries = [next((at for at in done if at > kill), ended) - kill for kill in killed]
    return Account(ended - began.at, useful, repeated, discarded, recoveries)


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so large a share of them does not exceed; None of none."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else None
