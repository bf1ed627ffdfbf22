"""The fleet of `tests/bench/plan_fleet.py`: real cores on modelled links do what the planner reckons with."""

from __future__ import annotations

from typing import Any

import pytest
from tests.bench.plan_fleet import measure

WORKERS, SHARDS = 8, 2


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
