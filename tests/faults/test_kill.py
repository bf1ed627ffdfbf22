"""kill -9 of server processes, at any time: the script does not notice, and not one bit differs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.faults.fleet import KilledFleet, killed_fleet
from tests.integration.harness import digest_of, running_fold, small_job, train
from typer.testing import CliRunner

from sheepfold_server.cli.app import app
from sheepfold_wire.job import Job

STEPS = 12
PLANS: dict[str, dict[str, Any]] = {
    "wal": {},
    "wal_fsync": {"durability": {"level": "wal_fsync"}},
    "delay": {"batch": {"samples": 32, "slot_samples": 4, "delay": 1}},
    "checkpoint": {"durability": {"level": "checkpoint"}, "checkpoint": {"every_steps": 2}},
    "checkpoint, delay": {
        "durability": {"level": "checkpoint"},
        "checkpoint": {"every_steps": 3},
        "batch": {"samples": 32, "slot_samples": 4, "delay": 1},
    },
}


def job_of(plan: str) -> Job:
    return small_job("killed", stop={"steps": STEPS}, leases={"seconds": 3.0}, **PLANS[plan])


@cache
def golden(plan: str) -> str:
    """Of the run that nothing disturbs, in this process, with nothing on a disk."""
    job = job_of(plan.removeprefix("checkpoint, ").replace("checkpoint", "wal"))
    with running_fold(2) as fold:
        train(fold.address, job)
        return digest_of(fold.address, job.name)


Kill = Callable[[KilledFleet], None]


def kill_shard(fleet: KilledFleet) -> None:
    fleet.kill(fleet.supervisor.shards[1])


def kill_both_shards(fleet: KilledFleet) -> None:
    for shard in fleet.supervisor.shards:
        fleet.kill(shard)


def kill_coordinator(fleet: KilledFleet) -> None:
    fleet.kill(fleet.supervisor.coordinator)


def kill_all(fleet: KilledFleet) -> None:
    kill_both_shards(fleet)
    kill_coordinator(fleet)


KILLS: dict[str, Kill] = {
    "one shard": kill_shard,
    "the coordinator": kill_coordinator,
    "all of them": kill_all,
}


CASES = [
    ("wal", "one shard"),
    ("wal", "the coordinator"),
    ("wal", "all of them"),
    ("wal_fsync", "all of them"),
    ("delay", "all of them"),
    ("checkpoint", "one shard"),
    ("checkpoint, delay", "one shard"),
]
"""What is killed matters most; levels and modes differ little beside it."""


@pytest.mark.parametrize(("plan", "killed"), CASES)
def test_kill_9_changes_no_bit_and_costs_no_committed_step_that_is_logged(
    plan: str, killed: str, tmp_path: Path
) -> None:
    lineages: set[str] = set()
    with killed_fleet(tmp_path, job_of(plan)) as fleet:
        for at in (0, 2, 6):
            fleet.until(lambda due=at: fleet.version() >= due, f"version {at}")  # type: ignore[misc]
            if plan.startswith("checkpoint"):
                fleet.until(lambda: fleet.kept() >= 0, "a checkpoint")
            before = fleet.version()
            lineages.add(fleet.lineage())
            KILLS[killed](fleet)
            fleet.until(lambda due=before: fleet.version() >= due, f"version {before} again")  # type: ignore[misc]
        assert fleet.finish() == golden(plan)
        lineages.add(fleet.lineage())
    if not plan.startswith("checkpoint"):
        assert len(lineages) == 1, "committed steps were lost: the job went back to a checkpoint"


def test_everything_stopped_and_started_again_goes_on_where_it_was(tmp_path: Path) -> None:
    job = job_of("wal")
    with killed_fleet(tmp_path, job, workers=1) as fleet:
        fleet.until(lambda: fleet.version() >= 3, "version 3")
        lineage = fleet.lineage()
    with killed_fleet(tmp_path, job, workers=1) as fleet:
        fleet.until(lambda: fleet.version() >= 3, "version 3, from the disk")
        assert fleet.finish() == golden("wal")
        assert fleet.lineage() == lineage, "committed steps were lost: the job went back to a checkpoint"


def replayed(directory: Path) -> dict[int, str]:
    """Digests of all versions that the logs lead to."""
    ran = CliRunner().invoke(app, ["replay", "killed", "--dir", str(directory), "--from", "0"])
    assert ran.exit_code == 0, ran.output
    lines = [line.split() for line in ran.stdout.splitlines()]
    return {int(version): digest for _, version, digest, *_ in lines}


def test_replay_of_what_kill_9_left_is_what_the_servers_come_back_with(tmp_path: Path) -> None:
    """Every version up to there is that of the run that nothing disturbs."""
    job, killed, whole = job_of("delay"), tmp_path / "killed", tmp_path / "whole"
    with running_fold(2, directory=whole) as fold:
        train(fold.address, job)
    with killed_fleet(killed, job) as fleet:
        fleet.until(lambda: fleet.version() >= 4, "version 4")
        kill_all(fleet)
        for worker in fleet.workers:
            worker.kill()
    left, expected = replayed(killed), replayed(whole)
    newest = max(left)
    assert newest >= 4
    assert left == {version: expected[version] for version in range(newest + 1)}
    assert expected[STEPS] == golden("delay")
    with killed_fleet(killed, job, workers=0) as fleet:
        fleet.until(lambda: fleet.version() >= newest, f"version {newest} again")
        assert fleet.version() == newest
        assert digest_of(fleet.address, job.name) == left[newest]
