"""From a seed that fails to a small case that fails in the same way, and the command that replays it.

Deterministic, and bounded by RUNS_MAX runs and EVENTS_MAX events. First the job and fleet are made smaller,
then faults are left out by halves, quarters and so on down to single ones (delta debugging), then again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.sim.invariants import Violation
from tests.sim.scenario import Scenario, Setting, draw
from tests.sim.world import Cores, World, check

RUNS_MAX = 400
EVENTS_MAX = 1_000_000
NO_FAULT = "none"


@dataclass(frozen=True)
class Case:
    """What is run: a seed, made smaller. None is what the seed draws."""

    seed: int
    keep: frozenset[str] | None = None
    """Names of the faults that may strike."""
    steps: int | None = None
    slots: int | None = None
    shards: int | None = None
    workers: int | None = None
    seconds: float | None = None
    """How long faults strike."""

    @property
    def scenario(self) -> Scenario:
        drawn = draw(self.seed)
        setting = drawn.setting
        shards = self.shards or drawn.shards
        return replace(
            drawn,
            setting=replace(setting, steps=self.steps or setting.steps, slots=self.slots or setting.slots),
            shards=shards,
            part_slots=drawn.part_slots[:shards],
            workers=self.workers or drawn.workers,
            fault_seconds=drawn.fault_seconds if self.seconds is None else self.seconds,
        )

    def world(self, cores: Cores | None = None) -> World:
        return World(self.scenario, cores, self.keep)

    def command(self, without: str = "") -> str:
        """`without`: the safeguard that was taken away."""
        words = [f"python -m tests.sim.replay {self.seed}"]
        for name in ("steps", "slots", "shards", "workers", "seconds"):
            value = getattr(self, name)
            if value is not None:
                words.append(f"--{name} {value}")
        if self.keep is not None:
            words.append(f"--keep {','.join(sorted(self.keep)) or NO_FAULT}")
        if without:
            words.append(f'--without "{without}"')
        return " ".join(words)


@dataclass(frozen=True)
class Outcome:
    """How a case ended: the name of what was violated ("" for nothing) and what struck until then."""

    name: str
    struck: tuple[str, ...]
    seconds: float


@dataclass(slots=True)
class Shrinker:
    name: str
    """What is violated, and must stay so."""
    best: Case
    cores: Cores | None
    runs: int = 0
    events: int = 0
    tried: set[Case] = field(default_factory=set)

    def shrink(self) -> Case:
        before = None
        while before != self.best:
            before = self.best
            self._shrink_numbers()
            self._shrink_faults()
        return self.best

    def _fails(self, case: Case) -> bool:
        """Whether it fails in the same way; it is the best one then."""
        if case in self.tried or self.runs >= RUNS_MAX or self.events >= EVENTS_MAX:
            return False
        self.tried.add(case)
        self.runs += 1
        world = case.world(self.cores)
        outcome = run(world)
        self.events += world.events
        if outcome.name != self.name:
            return False
        self.best = case if case.keep is None else replace(case, keep=frozenset(outcome.struck))
        return True

    def _shrink_numbers(self) -> None:
        for name, least in (("steps", 2), ("slots", 1), ("shards", 1), ("workers", 1)):
            for value in range(least, _number(self.best.scenario, name)):
                if self._fails(replace(self.best, **{name: value})):  # type: ignore[arg-type]
                    break

    def _shrink_faults(self) -> None:
        if self.best.keep is None:
            outcome = run(self.best.world(self.cores))
            self.best = replace(self.best, keep=frozenset(outcome.struck))
            self._fails(replace(self.best, seconds=round(outcome.seconds + 0.1, 1)))
        parts = 2
        while self.best.keep and parts:
            size = len(self.best.keep)
            if any(
                self._fails(replace(self.best, keep=kept)) for kept in _without_one(self.best.keep, parts)
            ):
                parts = max(2, parts - 1)
            elif parts >= size:
                return
            else:
                parts = min(size, 2 * parts)


def _number(scenario: Scenario, name: str) -> int:
    of: Scenario | Setting = scenario.setting if name in ("steps", "slots") else scenario
    number: int = getattr(of, name)
    return number


def _without_one(faults: frozenset[str], parts: int) -> Iterator[frozenset[str]]:
    """All but one of the parts these faults are cut into."""
    names = sorted(faults)
    for part in range(min(parts, len(names))):
        yield faults.difference(names[part :: min(parts, len(names))])


def run(world: World) -> Outcome:
    name = ""
    try:
        check(world)
    except Violation as violation:
        name = violation.name
    except Exception as error:
        name = type(error).__name__
    return Outcome(name, tuple(world.strikes.struck), world.now)


def shrunk(seed: int, cores: Cores | None = None) -> Case:
    """The smallest case found that fails as this seed does; raises ValueError if the seed does not fail."""
    case = Case(seed)
    name = run(case.world(cores)).name
    if not name:
        raise ValueError(f"seed {seed} violates nothing")
    return Shrinker(name, case, cores).shrink()
