"""Seeds that fail are made small: fewer faults and a smaller job, and the same invariant violated."""

from __future__ import annotations

import shlex
from itertools import islice

import pytest
from tests.sim import replay
from tests.sim.ablations import ABLATIONS
from tests.sim.invariants import Violation
from tests.sim.scenario import draw
from tests.sim.shrinking import Case, run, shrunk
from tests.sim.strikes import Strikes
from tests.sim.world import World

SEED = 3


def traced(keep: frozenset[str] | None) -> tuple[list[str], list[str]]:
    world = World(draw(SEED), keep=keep)
    world.lines = []
    world.run()
    return world.lines, world.strikes.struck


def test_keeping_every_fault_changes_nothing() -> None:
    lines, struck = traced(None)
    assert len(struck) > 5
    assert len(set(struck)) == len(struck)
    assert traced(frozenset(struck)) == (lines, struck)


def test_only_faults_that_are_kept_strike() -> None:
    _, struck = traced(None)
    kept = frozenset(struck[::2])
    lines, found = traced(kept)
    assert kept.issuperset(found)
    assert traced(frozenset())[1] == []
    assert lines != traced(None)[0]


def test_a_fault_has_the_same_numbers_whichever_others_strike() -> None:
    chances = {"a": 0.3, "b": 0.3}

    def numbers(keep: frozenset[str] | None) -> dict[str, float]:
        strikes = Strikes(1, chances, keep)
        found = {}
        for kind in "ab" * 200:
            if strikes.happens(kind):
                found[strikes.struck[-1]] = strikes.chance.random()
        return found

    every = numbers(None)
    assert 80 < len(every) < 160
    some = dict(list(every.items())[::3])
    assert numbers(frozenset(some)) == some


def test_faults_strike_as_often_as_is_said_and_not_after_the_end() -> None:
    strikes = Strikes(1, {"a": 0.05, "never": 0.0}, None)
    assert 850 < sum(strikes.happens("a") for _ in range(20_000)) < 1_150
    assert not any(strikes.happens("never") for _ in range(1_000))
    strikes.end()
    assert not any(strikes.happens("a") for _ in range(1_000))


def test_a_seed_that_fails_not_is_not_made_smaller() -> None:
    with pytest.raises(ValueError, match="seed 3 violates nothing"):
        shrunk(SEED)


def smallest_of_three(without: str) -> Case:
    """One seed's way down may end early: where no single fault or number can be left out any more."""
    cores, due = ABLATIONS[without]
    failing = (seed for seed in range(500) if run(Case(seed).world(cores)).name in due)
    return min((shrunk(seed, cores) for seed in islice(failing, 3)), key=lambda case: len(case.keep or ()))


@pytest.mark.parametrize(
    ("without", "faults_max"),
    [
        ("skip decided by each shard", 0),
        ("told before the log", 1),
        ("decisions acted on without a note", 2),
        ("norms added as they came", 1),
        ("no deduplication", 4),
    ],
)
def test_a_seed_that_fails_is_made_small_and_replayed_by_its_command(
    without: str, faults_max: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cores, due = ABLATIONS[without]
    case = smallest_of_three(without)
    assert case.keep is not None
    assert len(case.keep) <= faults_max
    assert case == shrunk(case.seed, cores)
    words = shlex.split(case.command(without))
    assert words[:3] == ["python", "-m", "tests.sim.replay"]
    with pytest.raises(Violation) as found:
        replay.main(words[3:])
    assert found.value.name in due
    assert str(case.scenario) in capsys.readouterr().out
