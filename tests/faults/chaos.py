"""Random faults in real processes under load: SIGKILL, SIGSTOP, bad links, and death at every failpoint.

    python -m tests.faults.chaos [--kills N] [--seed N]

Runs of one job, one after the other, each in a directory of its own: workers train through proxies while
processes are killed or stopped and links are cut, one thing at a time, at random moments and at those of
tests/faults/failpoints.py. Every run must end in the digest of the undisturbed one. A fault counts only if it
was seen to have happened, and strikes only after steps were committed since the one before. It goes on until
there were as many kills and every failpoint was hit. One line of JSON comes last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

from tests.faults.failpoints import FAILPOINTS, Failpoint, Needs
from tests.faults.fleet import KilledFleet, Staging, killed_fleet
from tests.faults.proxy import Fault
from tests.faults.results import record
from tests.faults.strikes import KILLS, STOPS, Striker, Tally
from tests.integration.harness import digest_of, running_fold, small_job, train

import sheepfold_wire.messages as m
from sheepfold_wire.control import Control, NoAnswer
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.job import Job

Kind = TypeVar("Kind", bound=str)

STEPS, STEPS_TO_RESTORE = 60, 12
WORKERS = 3
CALM_SECONDS_MAX = 1.0
STEPS_AFTER = 2
"""The next version may have been on its way when the kill struck."""
STEPS_BETWEEN = 1
"""Committed since the fault before: else nothing was under load."""
TRIES_MAX = 6
"""Runs in which a failpoint may be missed before it counts as out of reach."""
SHARED_EVERY = 3
"""Of so many runs one has its payloads in shared memory, past the proxies."""
BYTES_PER_STEP_MIN = 400_000
"""Through the proxies of both shards: 8 slots of 210,000 values in bf16 are eight times as many."""


def job_of(run: int, steps: int = STEPS) -> Job:
    """Levels and modes take turns; the digest is that of the mode."""
    level = ("wal", "wal_fsync")[run % 2]
    batch = {"samples": 32, "slot_samples": 4, **({"delay": 1} if run % 4 > 1 else {})}
    return small_job(
        "chaos",
        stop={"steps": steps},
        leases={"seconds": 3.0},
        batch=batch,
        durability={"level": level},
        checkpoint={"every_steps": 4},
    )


@cache
def golden(delay: int, steps: int) -> str:
    """Digest of the run that nothing disturbs, in this process."""
    batch = {"samples": 32, "slot_samples": 4, "delay": delay}
    job = small_job("chaos", stop={"steps": steps}, leases={"seconds": 3.0}, batch=batch)
    with running_fold(2) as fold:
        train(fold.address, job)
        return digest_of(fold.address, job.name)


class Run:
    """One job from its creation to its end."""

    def __init__(self, striker: Striker, chance: random.Random) -> None:
        self._striker, self._chance = striker, chance
        self._gave_up: set[str] = set()
        self.fleet, self.tally = striker.fleet, striker.tally
        self._version = 0
        self._lineage = ""
        """Unless the job was told to go back, it keeps that to its end."""

    def begin(self) -> None:
        """The job comes into being while those who make it die, one after the other."""
        points = self._pending("start")
        for point in points[:1]:
            self.fleet.armed.arm(point)
        for _ in range(WORKERS):
            self.fleet.add_worker()
        for point in points:
            self._fire(point)
        self.fleet.until(lambda: self.fleet.version() >= 0, "version 0")
        self._lineage = self.fleet.lineage()

    def _pending(self, *needs: Needs) -> list[Failpoint]:
        missing = self.tally.missing()
        return [point for point in missing if point.needs in needs and point.name not in self._gave_up]

    def _fire(self, point: Failpoint) -> None:
        if point.needs in ("rewind", "earlier"):
            self._lineage = ""
        if self._striker.fire(point):
            print(f"  died at {point.name}", flush=True)
            if point.role != "worker" and point.needs not in ("start", "rewind", "earlier"):
                self._recovered(self.fleet.armed.hit_at(point))
        else:
            print(f"  nobody came to {point.name}", flush=True)
            self._gave_up.add(point.name)

    def _recovered(self, began: float) -> None:
        due = self._version + STEPS_AFTER
        if due <= STEPS:
            self.fleet.until(lambda: self.fleet.version() >= due, f"version {due}")
            self.tally.recovery_seconds.append(time.monotonic() - began)

    def go_on(self, kills: int) -> None:
        """Until the job ends, or all is done."""
        while not self._is_done(kills) and self._wait_calm():
            self._arm_long_log()
            self._strike()
        self._take_long_log()
        for point in self._pending("leave"):
            self._striker.fire(point)

    def _is_done(self, kills: int) -> bool:
        return self.tally.kills.total() >= kills and not self._pending(
            "", "restart", "relink", "change", "checkpoint", "rewind", "earlier", "delete", "long log"
        )

    def _wait_calm(self) -> bool:
        """Until some time has passed and steps were committed; False if the job ended first."""
        end = time.monotonic() + self._chance.uniform(0.0, CALM_SECONDS_MAX)

        def is_due() -> bool:
            reached = self.fleet.version()
            return reached == STEPS or (time.monotonic() > end and reached >= self._version + STEPS_BETWEEN)

        self.fleet.until(is_due, f"a version after {self._version}")
        self._version = self.fleet.version()
        return 0 <= self._version < STEPS

    def _strike(self) -> None:
        points = self._pending("", "restart", "relink", "change", "checkpoint", "rewind", "earlier", "delete")
        weights = (6.0 if points else 0.0, 2.0, 0.5, 3.0)
        match self._chance.choices(("failpoint", "link", "stop", "kill"), weights)[0]:
            case "failpoint":
                point = self._chance.choice(points)
                self._fire(point)
                self._version = 0 if point.needs in ("rewind", "earlier") else self._version
            case "link":
                self._striker.disturb(self._rarest(self._faults(), self.tally.faults))
            case "stop":
                self._striker.stop(self._rarest(STOPS, self.tally.stops))
            case _:
                self._kill(self._rarest(KILLS, self.tally.kills))

    def _rarest(self, kinds: Sequence[Kind], counts: Mapping[Kind, int]) -> Kind:
        """Any of those that happened least: every kind has its share."""
        least = min(counts.get(kind, 0) for kind in kinds)
        return self._chance.choice([kind for kind in kinds if counts.get(kind, 0) == least])

    def _faults(self) -> list[Fault]:
        """In plain text a flipped bit of a decision is believed: only TLS notices all of them."""
        is_secured = self.fleet.staging.is_secured
        return [fault for fault in Fault if fault is not Fault.CORRUPT or is_secured]

    def _kill(self, what: str) -> None:
        began = time.monotonic()
        self._striker.kill(what)
        if what != "worker":
            self._recovered(began)

    def _arm_long_log(self) -> None:
        """A log becomes long now and then: what waits for that is armed until it happens."""
        for point in self._pending("long log")[:1]:
            self._take_long_log()
            if point.name not in self.tally.hit and not (self.fleet.armed.folder / point.name).exists():
                self.fleet.armed.arm(point)

    def _take_long_log(self) -> None:
        for point in self._pending("long log"):
            if self._striker.took(point):
                self._striker.count(point)
                print(f"  died at {point.name}", flush=True)

    def end(self) -> None:
        """Account for it."""
        job, tally = self.fleet.job, self.tally
        found = self.fleet.finish(may_be_killed=True)
        tally.mismatches += found != golden(job.batch.delay, job.stop.steps)
        tally.went_back += self._lineage not in ("", self.fleet.lineage())
        status = self.fleet.status()
        done = 0 if status is None else status.samples_committed
        tally.lost_steps += job.stop.steps - done // job.batch.samples
        if self.fleet.links is not None:
            for link, proxy in self.fleet.links.all.items():
                tally.forwarded_bytes[link] += proxy.forwarded_bytes
        tally.runs += 1


def run_once(tally: Tally, kills: int, chance: random.Random, directory: Path) -> None:
    staging = Staging(
        proxies_seed=chance.randrange(1 << 30),
        has_failpoints=True,
        is_secured=tally.runs % 2 == 1,
        shares_memory=tally.runs % SHARED_EVERY == SHARED_EVERY - 1,
    )
    with killed_fleet(directory, job_of(tally.runs), 0, staging) as fleet:
        run = Run(Striker(fleet, tally, chance), chance)
        run.begin()
        run.go_on(kills)
        run.end()


def restore_once(tally: Tally, point: Failpoint, chance: random.Random, directory: Path) -> None:
    """All but the checkpoints is lost; the coordinator dies while it takes the job up from them."""
    staging, job = Staging(has_failpoints=True), job_of(tally.runs, STEPS_TO_RESTORE)
    with killed_fleet(directory, job, 1, staging) as fleet:
        fleet.until(lambda: fleet.kept() > 0, "a checkpoint")
        kept = fleet.kept()
    for part in ("coordinator", "shard-0", "shard-1"):
        rmtree(directory / part)
    with killed_fleet(directory, job, 0, staging) as fleet:
        striker = Striker(fleet, tally, chance)
        fleet.armed.arm(point)
        request = m.RestoreRequest(uuid.uuid4().hex, job.name, None, "chaos")
        fleet.until(lambda: _restored(fleet, request), "the job, from its checkpoint")
        striker.count(point)
        tally.lost_steps += max(0, kept - fleet.version())
        fleet.add_worker()
        Run(striker, chance).end()
    print(f"  died at {point.name}", flush=True)


def _restored(fleet: KilledFleet, request: m.RestoreRequest) -> bool:
    with suppress(NoAnswer, SheepfoldError), Control(fleet.admin) as control:
        control.restore(request)
        return True
    return False


def shortfalls(tally: Tally) -> list[str]:
    """What was not really done: with any of these the run has shown nothing, whatever the digests say."""
    found = [f"no {fault} was injected" for fault in Fault if not tally.faults[fault]]
    found += [f"no {what} was killed" for what in KILLS if not tally.kills[what]]
    found += [f"nothing was a {what}" for what in STOPS if not tally.stops[what]]
    least = {"workers to shard 0": BYTES_PER_STEP_MIN, "workers to shard 1": BYTES_PER_STEP_MIN}
    for link, least_bytes in least.items():
        due = least_bytes * STEPS * max(1, tally.runs - tally.runs // SHARED_EVERY) // 2
        if tally.forwarded_bytes[link] < due:
            found.append(f"{tally.forwarded_bytes[link]} bytes from {link}, {due} are due")
    return found + [f"{point.name} was never hit" for point in tally.missing()]


def line_of(tally: Tally, seed: int) -> dict[str, Any]:
    seconds = sorted(tally.recovery_seconds) or [0.0]
    return {
        "bench": "chaos",
        "kills": tally.kills.total(),
        "by_kind": dict(tally.kills),
        "stops": tally.stops.total(),
        "link_faults": {str(fault): count for fault, count in tally.faults.items()},
        "proxied_mb": round(tally.forwarded_bytes.total() / 1e6, 1),
        "runs": tally.runs,
        "digest_mismatches": tally.mismatches,
        "lost_steps": tally.lost_steps,
        "went_back": tally.went_back,
        "recovery_s": {
            "p50": round(statistics.median(seconds), 2),
            "p95": round(seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))], 2),
        },
        "failpoints_hit": len(tally.hit),
        "failpoints": len(FAILPOINTS),
        "shortfalls": shortfalls(tally),
        "seed": seed,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="add the result to tests/faults/RESULTS.md")
    given = parser.parse_args()
    chance, tally = random.Random(given.seed), Tally()
    print(f"seed {given.seed}, {given.kills} kills, {len(FAILPOINTS)} failpoints", flush=True)
    tries = 0
    while (tally.kills.total() < given.kills or tally.missing()) and tries < TRIES_MAX + given.kills // 4:
        tries += 1
        with tempfile.TemporaryDirectory() as directory:
            run_once(tally, given.kills, chance, Path(directory))
        for point in [point for point in tally.missing() if point.needs == "restore"]:
            with tempfile.TemporaryDirectory() as directory:
                restore_once(tally, point, chance, Path(directory))
        print(
            f"run {tally.runs}: {tally.kills.total()} kills, {tally.mismatches} mismatches, "
            f"{len(tally.hit)} of {len(FAILPOINTS)} failpoints",
            flush=True,
        )
    line = line_of(tally, given.seed)
    is_red = bool(tally.mismatches or tally.lost_steps or tally.went_back or line["shortfalls"])
    if given.record:
        record(line, not is_red)
    print(json.dumps(line))
    return int(is_red)


if __name__ == "__main__":
    sys.exit(main())
