"""Which faults strike. Each has a name that can be kept or left out, and random numbers of its own.

"lose_reply:7" is the eighth time the world asked whether a reply is lost. Whether it is depends on the seed,
the kind and that number alone, and so does what follows from it: leaving out other faults changes neither.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

NEVER = -1


class Strikes:
    def __init__(self, seed: int, chances: dict[str, float], keep: frozenset[str] | None) -> None:
        """`chances`: by kind, each time it is asked for; `keep`: the only ones to strike, None for all."""
        self.seed = seed
        self.struck: list[str] = []
        """In order."""
        self.chance = random.Random()
        """Numbers of the fault that struck last."""
        self._asked = dict.fromkeys(chances, 0)
        self._places = {kind: self._drawn(kind, chance) for kind, chance in chances.items()}
        if keep is not None:
            self._places = {kind: _places_of(kind, keep) for kind in chances}
        self._next = {kind: next(places, NEVER) for kind, places in self._places.items()}

    def _drawn(self, kind: str, chance: float) -> Iterator[int]:
        """Places of a Bernoulli process, by the gaps between them."""
        if chance <= 0.0:
            return
        numbers, place = random.Random(f"{self.seed} {kind}"), -1
        while True:
            place += 1 + int(math.log(1.0 - numbers.random()) / math.log1p(-chance))
            yield place

    def happens(self, kind: str) -> bool:
        place = self._asked[kind]
        self._asked[kind] = place + 1
        if place != self._next[kind]:
            return False
        self._next[kind] = next(self._places[kind], NEVER)
        self.struck.append(f"{kind}:{place}")
        self.chance = random.Random(f"{self.seed} {self.struck[-1]}")
        return True

    def end(self) -> None:
        """None from now on."""
        self._next = dict.fromkeys(self._next, NEVER)


def _places_of(kind: str, keep: frozenset[str]) -> Iterator[int]:
    return iter(sorted(int(place) for of, _, place in (name.partition(":") for name in keep) if of == kind))
