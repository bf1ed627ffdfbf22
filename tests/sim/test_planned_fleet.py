"""The fleet of `tests/bench/plan_fleet.py`: real cores on modelled links do what the planner reckons with."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from tests.bench.plan_fleet import World, measure

import sheepfold_server.core

WORKERS, SHARDS = 8, 2
CORES = sheepfold_server.core.__path__[0]


@pytest.fixture(scope="module")
def fleet() -> dict[str, Any]:
    return measure(WORKERS, SHARDS, parameters=8 << 20, steps=2)


def test_each_slot_is_announced_staged_and_admitted_on_each_shard(fleet: dict[str, Any]) -> None:
    """What the planner's `message_s` is multiplied by."""
    kinds = fleet["messages_by_kind"]
    assert [kinds[name] for name in ("Expect", "Staged", "Admit")] == [WORKERS * SHARDS] * 3
    assert kinds["LeaseRequest"] == WORKERS
    assert [kinds[name] for name in ("Close", "Prepared", "Commit", "Applied")] == [SHARDS] * 4


def test_links_alone_take_no_longer_than_planned_and_at_least_one_direction(fleet: dict[str, Any]) -> None:
    assert fleet["planned_links_s"] / 2 <= fleet["step_s"] <= fleet["planned_links_s"]


def calls_of_the_cores(workers: int) -> int:
    """Functions of the cores that are called while a fleet of that size makes two steps."""
    count = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(CORES)

    world = World(workers, SHARDS, parameters=1 << 20, steps=2)
    sys.setprofile(note)
    try:
        world.run()
    finally:
        sys.setprofile(None)
    assert world.coordinator.has_ended
    return count


def test_work_of_the_coordinator_grows_with_the_workers_and_not_with_their_square() -> None:
    """Every worker waits with a call held most of the time: no event may look at each of them."""
    few, many = calls_of_the_cores(16), calls_of_the_cores(64)
    assert many < 6 * few, f"{few} calls with 16 workers, {many} with 64"
