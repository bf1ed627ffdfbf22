"""Real servers under `up`'s supervisor, at level `wal`; every worker a process."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from tests.bench.goodput.account import Told
from tests.bench.goodput.system import Fleet, module
from tests.bench.goodput.training import RATE, SLOTS_PER_WORKER

from sheepfold_server.shell.supervisor import Supervisor, UpConfig
from sheepfold_wire.control import Control
from sheepfold_wire.job import Job, parse_job


def job_of(workers: int, straggler_factor: float) -> Job:
    slots = SLOTS_PER_WORKER * workers
    return parse_job(
        {
            "name": "goodput",
            "batch": {"samples": slots, "slot_samples": 1},
            "data": {"mode": "free"},
            "optimizer": {"lr": {"peak": RATE}},
            "stop": {"steps": 1_000_000},
            "leases": {"straggler_factor": straggler_factor},
            "numerics": {"kernel": "eager"},
        }
    )


class Sheepfold:
    def __init__(self, folder: Path, job: Job, workers: int, compute_seconds: float) -> None:
        """`workers`: those that are there, which may be more than the job has slots for."""
        self._job, self._workers, self._version = job, workers, -1
        config = UpConfig(folder / "state", shard_count=2, port=0, dashboard_port=0)
        self._supervisor = Supervisor(config, threading.Event(), lambda _: None)
        self._supervisor.start()
        self._control = Control(self._supervisor.connection)
        address = self._supervisor.connection.secret
        command = [sys.executable, *module("sheepfold_worker"), address, job.to_json(), str(compute_seconds)]
        self._fleet = Fleet(lambda _: command, workers, folder / "log")

    def told(self) -> list[Told]:
        """Nothing before all workers were there once."""
        self._fleet.mend()
        if self._version < 0 and self._job.name not in self._control.jobs():
            return []
        now, status, before = time.monotonic(), self._control.status(self._job.name), self._version
        if before < 0 and len(status.workers) < self._workers:
            return []
        self._version = status.version
        return [Told(now, step) for step in range(before + 1, self._version + 1)] if before >= 0 else []

    def kill(self, victim: float) -> bool:
        return self._fleet.kill(victim)

    def close(self) -> None:
        self._fleet.close()
        self._control.close()
        self._supervisor.stop()
