"""Random SIGKILL and SIGSTOP of real processes under load.

    python -m tests.faults.chaos [--kills N] [--seed N]

Runs of one job, one after the other, each in a directory of its own: workers train while coordinator, shards
and workers are killed or stopped, one at a time, at random moments. Every run must end in the digest of the
undisturbed one. A kill counts only if steps were committed since the one before. One line of JSON comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.fleet import KilledFleet, killed_fleet
from tests.faults.results import record
from tests.integration.harness import digest_of, running_fold, small_job, train

from sheepfold_wire.job import Job

STEPS = 60
WORKERS = 3
CALM_SECONDS_MAX = 3.0
STOP_SECONDS_MAX = 4.0
STEPS_AFTER = 2
"""The next version may have been on its way when the kill struck."""
STEPS_BETWEEN = 1
"""Committed since the kill before: else nothing was under load."""
KINDS = ("shard", "shard", "coordinator", "worker", "everything", "stopped worker", "stopped shard")


@dataclass(slots=True)
class Tally:
    kills: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    mismatches: int = 0
    lost_steps: int = 0
    recovery_seconds: list[float] = field(default_factory=list)
    """From the kill of a server to a version that it must have been back for."""

    @property
    def total(self) -> int:
        return sum(self.kills.values())


def job_of(run: int) -> Job:
    """Levels and modes take turns; the digest is that of the mode."""
    level = ("wal", "wal_fsync")[run % 2]
    batch = {"samples": 32, "slot_samples": 4, **({"delay": 1} if run % 4 > 1 else {})}
    return small_job(
        "chaos", stop={"steps": STEPS}, leases={"seconds": 3.0}, batch=batch, durability={"level": level}
    )


def golden(job: Job) -> str:
    with running_fold(2) as fold:
        train(fold.address, job)
        return digest_of(fold.address, job.name)


def strike(fleet: KilledFleet, kind: str, chance: random.Random) -> None:
    """One fault; what was stopped goes on a moment later."""
    servers, workers = fleet.supervisor, [w for w in fleet.workers if w.poll() is None]
    shard = chance.choice(servers.shards)
    if kind == "shard":
        fleet.kill(shard)
    elif kind == "coordinator":
        fleet.kill(servers.coordinator)
    elif kind == "everything":
        for child in (*servers.shards, servers.coordinator):
            fleet.kill(child)
    elif kind == "worker" and workers:
        chance.choice(workers).kill()
        fleet.add_worker()
    else:
        pid = shard.pid if kind == "stopped shard" or not workers else chance.choice(workers).pid
        os.kill(pid, signal.SIGSTOP)
        end = time.monotonic() + chance.uniform(0.2, STOP_SECONDS_MAX)
        fleet.until(lambda: time.monotonic() > end, "the end of a stop")
        os.kill(pid, signal.SIGCONT)


def wait_calm(fleet: KilledFleet, seconds: float, version: int) -> bool:
    """Until some time has passed and steps were committed; False if the job ended first."""
    end = time.monotonic() + seconds
    last = fleet.job.stop.steps

    def is_due() -> bool:
        reached = fleet.version()
        return reached == last or (time.monotonic() > end and reached >= version + STEPS_BETWEEN)

    fleet.until(is_due, f"a version after {version}")
    return fleet.version() < last


def run_once(tally: Tally, kills: int, chance: random.Random, directory: Path) -> None:
    job = job_of(tally.runs)
    expected = golden(job)
    with killed_fleet(directory, job, WORKERS) as fleet:
        version = 0
        while tally.total < kills and wait_calm(fleet, chance.uniform(0.0, CALM_SECONDS_MAX), version):
            version, kind = fleet.version(), chance.choice(KINDS)
            began = time.monotonic()
            strike(fleet, kind, chance)
            tally.kills[kind] = tally.kills.get(kind, 0) + 1
            if kind in ("shard", "coordinator", "everything") and version + STEPS_AFTER <= STEPS:
                due = version + STEPS_AFTER
                fleet.until(lambda due=due: fleet.version() >= due, f"version {due}")  # type: ignore[misc]
                tally.recovery_seconds.append(time.monotonic() - began)
        found = fleet.finish(may_be_killed=True)
        tally.mismatches += found != expected
        status = fleet.status()
        done = 0 if status is None else status.samples_committed
        tally.lost_steps += STEPS - done // job.batch.samples
    tally.runs += 1


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="add the result to tests/faults/RESULTS.md")
    given = parser.parse_args()
    chance, tally = random.Random(given.seed), Tally()
    print(f"seed {given.seed}, {given.kills} kills", flush=True)
    while tally.total < given.kills:
        with tempfile.TemporaryDirectory() as directory:
            run_once(tally, given.kills, chance, Path(directory))
        print(f"run {tally.runs}: {tally.total} kills, {tally.mismatches} mismatches", flush=True)
    seconds = sorted(tally.recovery_seconds) or [0.0]
    line = {
        "bench": "chaos",
        "kills": tally.total,
        "by_kind": tally.kills,
        "runs": tally.runs,
        "digest_mismatches": tally.mismatches,
        "lost_steps": tally.lost_steps,
        "recovery_s": {
            "p50": round(statistics.median(seconds), 2),
            "p95": round(seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))], 2),
        },
        "seed": given.seed,
    }
    is_red = bool(tally.mismatches or tally.lost_steps)
    if given.record:
        record(line, not is_red)
    print(json.dumps(line))
    return int(is_red)


if __name__ == "__main__":
    sys.exit(main())
