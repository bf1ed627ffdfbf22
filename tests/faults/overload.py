"""More than a shard can take, and more workers than it has threads.

    python -m tests.faults.overload [--seconds 20] [--workers 200] [--record]

First two workers that saturate a shard, for the peak; then ten times as many, and as many threads again that
push parts nobody leased. The shard's memory must stay under a bound that is computed beforehand from its
model, its staging budget and its connections. Then a crowd of workers of a tiny model over TLS: what a step
costs the coordinator, and what a connection costs in memory. One line of JSON comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.crowd import COLUMNS
from tests.faults.footprint import MEBIBYTE, Footprint, cpu_seconds, sample
from tests.faults.results import record

from sheepfold.transport.shared_memory import VARIABLE as SHARED_MEMORY
from sheepfold_server.planning.memory import state_bytes_per_parameter
from sheepfold_server.shell.options import READ_AHEAD_BYTES
from sheepfold_server.shell.supervisor import Supervisor, UpConfig
from sheepfold_wire.control import Control
from sheepfold_wire.frames import CHUNK_BYTES
from sheepfold_wire.job import Job, parse_job

CROWD = Path(__file__).with_name("crowd.py")
ROWS, TINY_ROWS = 4096, 1
HONEST, TIMES = 2, 10
STAGED_PARTS = 4
SLOTS = 8
BYTES_PER_PARAMETER = state_bytes_per_parameter(delay=0)
"""As chart and planner reckon: w, m, v, the sum, copies in fp32 and 16 bits, a state that is being saved."""
MB_PER_CONNECTION = (READ_AHEAD_BYTES + 2 * CHUNK_BYTES) / MEBIBYTE
"""Beside its staged part: what gRPC has read ahead, and a message as gRPC and as Python hold it."""
FRAGMENTS = 0.2
"""What the C library may hold of memory that is free, as a share of the rest."""
GOODPUT_MIN = 0.7
WARM_UP_SECONDS = 4.0
JOIN_SECONDS = 180.0
PROCESSES = 2
"""That hold the workers of the crowd."""


def job_of(name: str, slots: int) -> Job:
    return parse_job(
        {
            "name": name,
            "batch": {"samples": slots, "slot_samples": 1},
            "data": {"mode": "free"},
            "optimizer": {"lr": {"peak": 0.001}},
            "stop": {"steps": 1_000_000},
            "numerics": {"kernel": "eager"},
            "checkpoint": {"every_minutes": 0},
        }
    )


def rss_bound_mb(idle_mb: float, connections: int) -> float:
    """Of a shard that took `idle_mb` before it had a job."""
    parameters = ROWS * COLUMNS
    state, staging = BYTES_PER_PARAMETER * parameters, STAGED_PARTS * parameters * 4
    held = (state + staging) / MEBIBYTE + MB_PER_CONNECTION * connections
    return (idle_mb + held) * (1.0 + FRAGMENTS)


@dataclass(frozen=True)
class Load:
    """What a crowd did within some seconds."""

    counts: Counter[str]
    versions: int
    seconds: float
    """Between the first and the last look at the version."""
    coordinator_cpu_s: float
    shard: Footprint
    coordinator: Footprint

    @property
    def steps_per_second(self) -> float:
        return self.versions / self.seconds


@contextmanager
def servers(is_secured: bool) -> Iterator[Supervisor]:
    with tempfile.TemporaryDirectory() as directory:
        config = UpConfig(
            Path(directory),
            shard_count=1,
            port=0,
            dashboard_port=0,
            staging_bytes=STAGED_PARTS * ROWS * COLUMNS * 4,
            is_secured=is_secured,
        )
        supervisor = Supervisor(config, threading.Event(), print)
        supervisor.start()
        try:
            yield supervisor
        finally:
            supervisor.stop()


def load(supervisor: Supervisor, job: Job, rows: int, crowds: list[tuple[int, int]], seconds: float) -> Load:
    """Crowds of (honest, rogue) threads, a process each; measured once they have all joined and warmed up.

    Workers have processors of their own; those that share the shard's here give way to it.
    """
    address = supervisor.connection.secret
    command = ["nice", "-n", "19", sys.executable, str(CROWD), address, job.to_json(), str(rows)]
    until_end = str(WARM_UP_SECONDS + seconds + 2.0)
    processes = [
        subprocess.Popen(
            [*command, str(honest), str(rogues), until_end],
            env={**os.environ, SHARED_MEMORY: "0"},  # what comes through sockets is what can be too much
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for honest, rogues in crowds
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    with Control(supervisor.connection) as control:
        _await_steps(control, job)
        time.sleep(WARM_UP_SECONDS)
        shard, coordinator = Footprint(), Footprint()
        first, began = control.status(job.name).version, time.monotonic()
        cpu = cpu_seconds(supervisor.coordinator.pid)
        while time.monotonic() - began < seconds:
            for child, footprint in ((supervisor.shards[0], shard), (supervisor.coordinator, coordinator)):
                found = sample(child.pid)
                assert found is not None, f"{child.name} died: {child.last_words()}"
                footprint.samples.append(found)
            time.sleep(0.1)
        last, took = control.status(job.name).version, time.monotonic() - began
        cpu = cpu_seconds(supervisor.coordinator.pid) - cpu
    counts: Counter[str] = Counter()
    for process in processes:
        out, _ = process.communicate(timeout=JOIN_SECONDS)
        counts.update(json.loads(out.splitlines()[-1]))
    return Load(counts, last - first, took, cpu, shard, coordinator)


def _await_steps(control: Control, job: Job) -> None:
    end = time.monotonic() + JOIN_SECONDS
    while job.name not in control.jobs() or control.status(job.name).version < 1:
        assert time.monotonic() < end, "no step was made"
        time.sleep(0.1)


def overload(seconds: float) -> dict[str, Any]:
    """Ten times as many workers as saturate a shard, and as many threads that push what nobody leased."""
    job = job_of("overload", SLOTS)
    with servers(is_secured=False) as supervisor:
        idle = sample(supervisor.shards[0].pid)
        assert idle is not None
        peak = load(supervisor, job, ROWS, [(HONEST, 0)], seconds)
        crowd = load(supervisor, job, ROWS, [(HONEST * TIMES, HONEST * TIMES)], seconds)
    bound = rss_bound_mb(idle.rss_mb, 2 * HONEST * TIMES)
    tried = crowd.counts["tried"] + crowd.counts["tried by rogues"]
    return {
        "workers": HONEST * TIMES,
        "rogues": HONEST * TIMES,
        "tried": tried,
        "counted": crowd.counts["counted"],
        "taken_from_rogues": crowd.counts["TAKEN from rogues"],
        "refusals": {k: v for k, v in crowd.counts.items() if k.isupper() or k == "TransportError"},
        "peak_steps_per_s": round(peak.steps_per_second, 2),
        "steps_per_s": round(crowd.steps_per_second, 2),
        "goodput": round(crowd.steps_per_second / peak.steps_per_second, 3),
        "shard_rss_at_peak_mb": round(peak.shard.largest("rss_mb"), 1),
        "shard_rss_mb": round(crowd.shard.largest("rss_mb"), 1),
        "shard_rss_bound_mb": round(bound, 1),
    }


def crowded(workers: int, seconds: float) -> dict[str, Any]:
    """Many workers of a tiny model over TLS, beside two."""
    job = job_of("crowded", 50)
    with servers(is_secured=True) as supervisor:
        few = load(supervisor, job, TINY_ROWS, [(2, 0)], seconds)
        halves = [(workers // PROCESSES, 0)] * PROCESSES
        many = load(supervisor, job, TINY_ROWS, halves, seconds)

    def per_worker_kb(of: str) -> float:
        grown = getattr(many, of).largest("rss_mb") - getattr(few, of).largest("rss_mb")
        return round(1024 * grown / (workers - 2), 1)

    return {
        "workers": workers,
        "joined": many.counts["joined"],
        "failed": sum(count for what, count in many.counts.items() if what.startswith("worker:")),
        "steps_per_s": round(many.steps_per_second, 2),
        "steps_per_s_of_2_workers": round(few.steps_per_second, 2),
        "coordinator_cpu_ms_per_step": round(1e3 * many.coordinator_cpu_s / max(1, many.versions), 2),
        "coordinator_cpu_ms_per_step_of_2_workers": round(1e3 * few.coordinator_cpu_s / few.versions, 2),
        "coordinator_kb_per_worker": per_worker_kb("coordinator"),
        "shard_kb_per_worker": per_worker_kb("shard"),
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--record", action="store_true", help="add the result to tests/faults/RESULTS.md")
    given = parser.parse_args()
    over, crowd = overload(given.seconds), crowded(given.workers, given.seconds)
    line = {"bench": "overload", "overload": over, "crowd": crowd, "goodput_min": GOODPUT_MIN}
    is_red = (
        over["shard_rss_mb"] > over["shard_rss_bound_mb"]
        or over["goodput"] < GOODPUT_MIN
        or over["taken_from_rogues"] > 0
        or crowd["joined"] < given.workers
        or crowd["failed"] > 0
    )
    if given.record:
        record(line, not is_red)
    print(json.dumps(line))
    return int(is_red)


if __name__ == "__main__":
    sys.exit(main())
