"""Steps per second while workers die, beside those while none does.

    python -m tests.bench.goodput [--mtbf-steps 10] [--workers 4] [--spare 1] [--compute 1.0] [--steps 60]

Real servers under `up`'s supervisor, every worker a process whose gradient takes `--compute` seconds and no
processor. Rounds of undisturbed and of disturbed steps take turns: in the latter each worker dies by SIGKILL
with chance 1/mtbf in every step, at a random moment of it, and another is started at once, as a cluster does.
Spare workers are there in all rounds, and take slots like all others. One line of JSON comes last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from sheepfold_server.shell.supervisor import Supervisor, UpConfig
from sheepfold_wire.control import Control
from sheepfold_wire.job import Job, parse_job

WORKER = Path(__file__).with_name("goodput_worker.py")
LOOK_SECONDS = 0.01
WARM_UP = 4
SLOTS_PER_WORKER = 2
STEP_SECONDS_MAX = 120.0


def job_of(workers: int, straggler_factor: float) -> Job:
    slots = SLOTS_PER_WORKER * workers
    return parse_job(
        {
            "name": "goodput",
            "batch": {"samples": slots, "slot_samples": 1},
            "data": {"mode": "free"},
            "optimizer": {"lr": {"peak": 0.001}},
            "stop": {"steps": 1_000_000},
            "leases": {"straggler_factor": straggler_factor},
            "numerics": {"kernel": "eager"},
        }
    )


class Fleet:
    """The workers, who are replaced when they were killed."""

    def __init__(self, address: str, job: Job, workers: int, compute_seconds: float) -> None:
        self._command = [sys.executable, str(WORKER), address, job.to_json(), str(compute_seconds)]
        self._workers = [self._start() for _ in range(workers)]
        self.killed = 0

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self, number: int) -> None:
        self._workers[number].kill()
        assert self._workers[number].wait() < 0
        self._workers[number] = self._start()
        self.killed += 1

    def __len__(self) -> int:
        return len(self._workers)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()


def timed(control: Control, job: Job, steps: int, fleet: Fleet, chance: random.Random, death: float) -> float:
    """Steps per second over so many, while each worker dies in a step with chance `death`."""
    version = first = control.status(job.name).version
    began = changed = time.monotonic()
    usual, doomed = 1.0, list[tuple[float, int]]()
    while version < first + steps:
        time.sleep(LOOK_SECONDS)
        now = time.monotonic()
        assert now - changed < STEP_SECONDS_MAX, f"no step after version {version}"
        for due in [due for due in doomed if due[0] <= now]:
            doomed.remove(due)
            fleet.kill(due[1])
        reached = control.status(job.name).version
        if reached > version:
            usual, changed, version = (now - changed) / (reached - version), now, reached
            dying = [number for number in range(len(fleet)) if chance.random() < death]
            doomed += [(now + chance.uniform(0.0, usual), number) for number in dying]
    return (version - first) / (time.monotonic() - began)


def measure(directory: Path, given: argparse.Namespace) -> dict[str, object]:
    chance, job = random.Random(given.seed), job_of(given.workers, given.straggler_factor)
    supervisor = Supervisor(
        UpConfig(directory, shard_count=2, port=0, dashboard_port=0), threading.Event(), print
    )
    supervisor.start()
    fleet = Fleet(supervisor.connection.secret, job, given.workers + given.spare, given.compute)
    calm, stormy, kills = list[float](), list[float](), 0
    try:
        with Control(supervisor.connection) as control:
            _await_version(control, job, WARM_UP)
            for _ in range(given.rounds):
                calm.append(timed(control, job, given.steps // given.rounds, fleet, chance, 0.0))
                death = 1.0 / given.mtbf_steps
                stormy.append(timed(control, job, given.steps // given.rounds, fleet, chance, death))
        kills = fleet.killed
    finally:
        fleet.close()
        supervisor.stop()
    return {
        "bench": "goodput",
        "mtbf_steps": given.mtbf_steps,
        "workers": given.workers,
        "spare": given.spare,
        "straggler_factor": given.straggler_factor,
        "compute_s": given.compute,
        "steps": given.steps,
        "kills": kills,
        "steps_per_s_undisturbed": round(statistics.harmonic_mean(calm), 3),
        "steps_per_s": round(statistics.harmonic_mean(stormy), 3),
        "goodput": round(statistics.harmonic_mean(stormy) / statistics.harmonic_mean(calm), 3),
        "seed": given.seed,
    }


def _await_version(control: Control, job: Job, version: int) -> None:
    end = time.monotonic() + STEP_SECONDS_MAX
    while job.name not in control.jobs() or control.status(job.name).version < version:
        assert time.monotonic() < end, "the job does not begin"
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mtbf-steps", type=float, default=10.0, help="of each worker")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--spare", type=int, default=1)
    parser.add_argument("--straggler-factor", type=float, default=3.0, help="leases.straggler_factor")
    parser.add_argument("--compute", type=float, default=1.0, help="seconds of a slot's gradient")
    parser.add_argument("--steps", type=int, default=60, help="in either state")
    parser.add_argument("--rounds", type=int, default=3, help="of undisturbed, then disturbed steps")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), given)))


if __name__ == "__main__":
    main()
