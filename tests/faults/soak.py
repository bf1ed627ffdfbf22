"""Does anything grow? Training under faults for a long time, with every process watched.

    python -m tests.faults.soak [--minutes 60] [--seed 1] [--record]

A fault each 30 seconds: links that stall or break, one shard or one worker killed or stopped. Coordinator,
the other shard, the dashboard and the other worker live throughout: memory, descriptors and threads of each
are sampled, and a straight line through the samples after a warm-up must not rise by more than GROWTH_MAX.
At the end the digest is compared with that of an undisturbed run of as many steps. One line of JSON comes
last.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.fleet import KilledFleet, Staging, killed_fleet
from tests.faults.footprint import Footprint, sample
from tests.faults.proxy import Fault
from tests.faults.results import record
from tests.faults.strikes import Striker, Tally
from tests.integration.harness import digest_of, running_fold, small_job, train

import sheepfold_wire.messages as m
from sheepfold_wire.control import Control, NoAnswer
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.job import Job

FAULT_SECONDS, SAMPLE_SECONDS = 30.0, 2.0
STEPS_PER_SECOND_MAX = 3.0
"""The undisturbed run makes all of these steps again, and must not take as long as the soak."""
WARM_UP = 0.4
"""Of the time: histories of bounded length fill, allocators find their size."""
GROWTH_MAX = {"rss_mb": 8.0, "descriptors": 3.0, "threads": 3.0}
"""Of the line through the samples, over the rest of the run, however long that is."""
FAULTS = ("shard", "worker", "stop", *(fault for fault in Fault if fault is not Fault.CORRUPT))


def job_of() -> Job:
    return small_job(
        "soak",
        stop={"steps": 1_000_000},
        leases={"seconds": 3.0},
        checkpoint={"every_steps": 50},
    )


def undisturbed(steps: int) -> str:
    job = job_of()
    with running_fold(2) as fold:
        train(fold.address, job, until_step=steps)
        return digest_of(fold.address, job.name)


class Soak:
    """One run."""

    def __init__(self, fleet: KilledFleet, chance: random.Random) -> None:
        self.fleet, self.tally, self._chance = fleet, Tally(), chance
        self._striker = Striker(fleet, self.tally, chance)
        servers = fleet.supervisor
        self._pids = {
            "coordinator": servers.coordinator.pid,
            "shard 0": servers.shards[0].pid,
            "dashboard": servers.dashboard.pid,
            "worker 0": fleet.workers[0].pid,
        }
        self.footprints = {role: Footprint() for role in self._pids}
        self._sampled_at = 0.0

    def run(self, seconds: float) -> None:
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            due = min(end, time.monotonic() + FAULT_SECONDS)
            self.fleet.until(lambda due=due: self._look() or time.monotonic() >= due, "a fault's turn")  # type: ignore[misc]
            version = self.fleet.version()
            self._strike(FAULTS[number % len(FAULTS)])
            self.fleet.until(lambda least=version: self.fleet.version() > least, "a step after a fault")  # type: ignore[misc]
            number += 1

    def _look(self) -> bool:
        """Sample everyone when it is time; never True."""
        if time.monotonic() - self._sampled_at >= SAMPLE_SECONDS:
            self._sampled_at = time.monotonic()
            for role, pid in self._pids.items():
                found = sample(pid)
                assert found is not None, f"{role} did not live throughout"
                self.footprints[role].samples.append(found)
        return False

    def _strike(self, what: str) -> None:
        shard, worker = self.fleet.supervisor.shards[1], self.fleet.workers[-1]
        if what == "shard":
            pid = shard.pid
            self.fleet.kill(shard)
            self._striker.await_death_of(shard, pid)
            self.tally.kills[what] += 1
        elif what == "worker":
            worker.kill()
            self._striker.bury(worker)
            self.tally.kills[what] += 1
        elif what == "stop":
            self._striker.stop("stopped shard")
        else:
            self._striker.disturb(Fault(what))

    def stop(self) -> int:
        """Steps that were committed when the job had ended."""

        def is_stopped() -> bool:
            with suppress(NoAnswer, SheepfoldError), Control(self.fleet.admin) as control:
                control.control(m.ControlRequest(self.fleet.job.name, "stop", "soak"))
                return True
            return False

        self.fleet.until(is_stopped, "an answer to `stop`")
        self.fleet.until(lambda: all(w.poll() is not None for w in self.fleet.workers), "the last step")
        return self.fleet.version()


def measure(minutes: float, seed: int) -> tuple[dict[str, Any], bool]:
    """(what was found, whether it is red)."""
    job, chance = job_of(), random.Random(seed)
    staging = Staging(proxies_seed=seed, shares_memory=False, steps_per_second_max=STEPS_PER_SECOND_MAX)
    with (
        tempfile.TemporaryDirectory() as directory,
        killed_fleet(Path(directory), job, 2, staging) as fleet,
    ):
        fleet.until(lambda: fleet.version() >= 0, "version 0")
        soak, began = Soak(fleet, chance), time.monotonic()
        soak.run(60.0 * minutes)
        seconds = time.monotonic() - began
        steps = soak.stop()
        digest = digest_of(fleet.address, job.name)
        assert fleet.links is not None
        proxied = sum(proxy.forwarded_bytes for proxy in fleet.links.all.values())
    growth = {
        role: {of: round(footprint.growth(of, WARM_UP), 2) for of in GROWTH_MAX}
        for role, footprint in soak.footprints.items()
    }
    grows = [
        f"{role} {of}" for role, by in growth.items() for of, value in by.items() if value > GROWTH_MAX[of]
    ]
    line = {
        "bench": "soak",
        "minutes": round(seconds / 60.0, 1),
        "steps": steps,
        "kills": soak.tally.kills.total(),
        "stops": soak.tally.stops.total(),
        "link_faults": {str(fault): count for fault, count in soak.tally.faults.items()},
        "proxied_mb": round(proxied / 1e6, 1),
        "digest_mismatches": int(digest != undisturbed(steps)),
        "growth": growth,
        "rss_mb": {role: round(f.largest("rss_mb"), 1) for role, f in soak.footprints.items()},
        "samples": len(soak.footprints["coordinator"].samples),
        "grows": grows,
        "seed": seed,
    }
    was_calm = not (soak.tally.kills and soak.tally.faults)
    return line, bool(grows or line["digest_mismatches"] or was_calm)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="add the result to tests/faults/RESULTS.md")
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.minutes:g} minutes", flush=True)
    line, is_red = measure(given.minutes, given.seed)
    if given.record:
        record(line, not is_red)
    print(json.dumps(line))
    return int(is_red)


if __name__ == "__main__":
    sys.exit(main())
