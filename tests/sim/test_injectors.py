"""Each kind of fault can turn something: a mark that a small campaign of it hits, and never without it."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from tests.sim.marks import Marks
from tests.sim.scenario import Faults, Scenario, Setting
from tests.sim.world import World, check

SEEDS = 12
SETTING = Setting("sync", 4, 4, "", "samples", "skip")
KILLS = Faults(crash_shard_rate=0.5, crash_coordinator_rate=0.5)

SHOWN: dict[str, tuple[Faults, str]] = {
    "lose_request": (Faults(lose_request=0.2), "attempt expired"),
    "lose_reply": (Faults(lose_reply=0.2), "duplicate answered"),
    "duplicate": (Faults(duplicate=0.3), "lease answered again"),
    "delay": (Faults(delay=0.3), "late push refused"),
    "break_push": (Faults(break_push=0.3), "stale answer dropped"),
    "nan": (Faults(nan=0.4), "non-finite refused"),
    "straggle": (Faults(straggle=0.1), "straggler leased twice"),
    "lose_part": (Faults(lose_part=0.2), "refold"),
    "kill_rate": (Faults(kill_rate=0.6), "worker gone"),
    "leave_rate": (Faults(leave_rate=0.6), "worker forgotten"),
    "stop_rate": (Faults(stop_rate=0.6), "attempt expired"),
    "break_link_rate": (Faults(break_link_rate=0.6), "link resumed with a step open"),
    "half_open_rate": (Faults(half_open_rate=0.6), "report of a replaced link"),
    "crash": (Faults(crash=0.004), "restart"),
    "open_slowly": (replace(KILLS, open_slowly=0.9), "opened for a link that is over"),
    "crash_shard_rate": (Faults(crash_shard_rate=0.6), "prepared sum found in the log"),
    "crash_coordinator_rate": (Faults(crash_coordinator_rate=0.6), "worker forgotten"),
    "lose_disk": (Faults(crash_shard_rate=0.5, lose_disk=0.9), "went back to a checkpoint"),
    "lose_checkpoint": (Faults(save_rate=0.9, lose_checkpoint=0.5), "checkpoint asked for and failed"),
    "damage_part": (Faults(rewind_rate=0.6, damage_part=0.9), "damaged checkpoint passed over"),
    "rewind_rate": (Faults(rewind_rate=0.6), "went back to a checkpoint"),
    "save_rate": (Faults(save_rate=0.9), "checkpoint asked for and kept"),
    "break_call_rate": (Faults(break_call_rate=0.6), "attempt superseded"),
}
"""The fault, with those it needs beside it, and what it alone brings about."""


def reached(faults: Faults) -> Marks:
    total = Marks()
    for seed in range(SEEDS):
        world = World(Scenario(seed, SETTING, 2, (4, 4), 3, False, faults, 6.0, keeps_checkpoints=True))
        check(world)
        total.update(world.marks)
    return total


@pytest.mark.parametrize("kind", [field.name for field in fields(Faults)])
def test_an_injector_that_never_fires_is_missed(kind: str) -> None:
    faults, mark = SHOWN[kind]
    assert reached(faults)[mark] > 0
    assert reached(replace(faults, **{kind: 0.0}))[mark] == 0


def test_clocks_of_their_own_are_missed() -> None:
    """Not a fault that strikes, but a property of the scenario."""

    def went_back(drift: float) -> int:
        total = 0
        for seed in range(SEEDS):
            scenario = Scenario(seed, SETTING, 2, (4, 4), 3, False, KILLS, 6.0, clock_drift=drift)
            world = World(scenario)
            check(world)
            total += world.marks["clock of the coordinator went back"]
        return total

    assert went_back(0.1) > 0
    assert went_back(0.0) == 0
