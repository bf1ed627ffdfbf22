"""The whole core under seeded faults. SHEEPFOLD_SIM_SEEDS sets how many seeds are run (2,000)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache

import pytest
from tests.sim.ablations import ABLATIONS, RARE
from tests.sim.campaign import ABLATION_SEEDS
from tests.sim.clocks import Clock
from tests.sim.invariants import Violation
from tests.sim.marks import MARKS, Marks
from tests.sim.scenario import CALM, Scenario, Setting, draw
from tests.sim.worker import SimWorker
from tests.sim.world import World, simulate, undisturbed_state

import sheepfold_wire.messages as m

SEEDS = int(os.environ.get("SHEEPFOLD_SIM_SEEDS", "2000"))
CHUNK = 100


@cache
def campaign(first: int, end: int) -> Marks:
    """Run these seeds; raises on the first violation, naming the command that replays it."""
    total = Marks()
    for seed in range(first, end):
        try:
            total.update(simulate(seed))
        except Exception as error:
            pytest.fail(
                f"seed {seed}: {type(error).__name__}: {error}\nreplay: python -m tests.sim.replay {seed}"
            )
    return total


CHUNKS = [(first, min(first + CHUNK, SEEDS)) for first in range(0, SEEDS, CHUNK)]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "end"), CHUNKS)
def test_no_invariant_is_violated(first: int, end: int) -> None:
    campaign(first, end)


@pytest.mark.slow
def test_every_rare_state_is_reached() -> None:
    """A campaign that never saw a retry has shown nothing about retries."""
    total = Marks()
    for first, end in CHUNKS:
        total.update(campaign(first, end))
    missed = [mark for mark in MARKS if not total[mark]]
    assert not missed, f"{SEEDS} seeds never reached: {missed}"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_a_missing_safeguard_is_caught(name: str) -> None:
    """Others may notice first; the invariant that needs the safeguard must notice, too."""
    cores, due = ABLATIONS[name]
    noticed: set[str] = set()
    first = RARE.get(name, 0)
    for seed in range(first, first + ABLATION_SEEDS):
        try:
            simulate(seed, cores)
        except Violation as violation:
            noticed.add(violation.name)
        if noticed & due:
            return
    pytest.fail(f"{name}: {ABLATION_SEEDS} seeds, due {sorted(due)}, noticed {sorted(noticed)}")


def trace_hash(seed: int) -> str:
    world = World(draw(seed))
    world.lines = []
    world.run()
    return hashlib.sha256("\n".join(world.lines).encode()).hexdigest()


@pytest.mark.parametrize("seed", [3, 11])
def test_one_seed_gives_one_trace(seed: int) -> None:
    assert trace_hash(seed) == trace_hash(seed)


@pytest.mark.slow
def test_one_seed_gives_one_trace_under_any_hash_seed() -> None:
    code = "from tests.sim.test_simulation import trace_hash; print(trace_hash(5))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in (1, 2)
    }
    assert len(found) == 1


class HighestSlotFirst(World):
    """The higher the slot, the sooner its contribution is ready."""

    def compute_seconds(self, worker: SimWorker, lease: m.Lease) -> float:
        return 0.05 if lease.slot is None else 0.05 * (9 - lease.slot)


SYNC = Setting("sync", 8, 3, "", "samples", "skip")


@pytest.mark.parametrize("window", [2, 3, 8])
def test_window_of_two_cannot_deadlock(window: int) -> None:
    """Eight slots that arrive 7 to 0 over two shards, with staging room for `window` parts."""
    calm = Scenario(1, SYNC, 2, (window, window), 8, False, CALM, 0.0)
    world = HighestSlotFirst(calm)
    world.run()
    assert world.state.version == SYNC.steps
    assert {host.engine.state for host in world.shards} == {undisturbed_state(SYNC)}


@pytest.mark.parametrize("mode", ["sync", "delay 1", "delay 2"])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_and_workers_change_no_bit(mode: str, shards: int) -> None:
    setting = Setting(mode, 4, 4, "overflow", "tokens", "skip")
    for workers in (1, 3, 6):
        world = World(Scenario(workers, setting, shards, (5,) * shards, workers, False, CALM, 0.0))
        world.run()
        assert {host.engine.state for host in world.shards} == {undisturbed_state(setting)}


def test_clocks_that_differ_change_no_bit() -> None:
    calm = Scenario(1, SYNC, 2, (5, 5), 3, False, CALM, 0.0, clock_drift=0.1)
    world = World(calm)
    world.run()
    clocks = [world.clock, *(worker.clock for worker in world.workers.values())]
    assert len({clock.rate for clock in clocks}) == len(clocks) == 4
    assert world.state.now == world.clock.read(world.now) != world.now
    assert {host.engine.state for host in world.shards} == {undisturbed_state(SYNC)}


@pytest.mark.parametrize("rate", [0.9, 1.0, 1.1])
def test_a_clock_says_when_it_will_show_a_reading(rate: float) -> None:
    clock = Clock(origin=500.0, rate=rate)
    assert clock.read(3.0 + clock.until(clock.read(7.0), 3.0)) == pytest.approx(clock.read(7.0))
    assert clock.until(clock.read(2.0), 3.0) == 0.0


def test_another_gradient_changes_the_state() -> None:
    """The comparison above can fail."""
    other = Setting("sync", 8, 3, "", "tokens", "skip")
    assert undisturbed_state(SYNC) != undisturbed_state(other)
