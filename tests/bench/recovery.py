"""How long a shard that was killed takes to be back with its state, by where its log stands.

    python -m tests.bench.recovery [--parameters 109000000] [--rounds 8] [--dir DIR] [--record]

Real servers under `up`'s supervisor, level `wal`, one shard, one NumPy worker. In each round the worker makes
some steps, then the shard is killed by SIGKILL. Measured from the moment at which its successor is linked to
the coordinator, process and imports started, to the moment at which it says that it has its state: the log is
read and its steps are made again by then, which the shard tells apart. One line of JSON comes last. 109
million parameters need 17 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.bench.durability import Worker, arrays
from tests.faults.results import record

from sheepfold_server.shell import supervisor as supervision
from sheepfold_server.shell.supervisor import Supervisor, UpConfig

RECOVERED = "is recovered"
"""In the log of a shard, once for each time."""
REPLAYED = re.compile(r"(\d+) steps of it were made again in ([0-9.]+) s")
LOOK_SECONDS = 0.02
DEADLINE_SECONDS = 300.0
BEYOND_SECONDS_MAX = 5.0
"""What is aimed at, of 95 % of kills: a record above it is red."""
STEPS_MAX = 4
"""Of a round."""


def kill_and_wait(supervisor: Supervisor, said: list[str]) -> tuple[float, float, int, float]:
    """(seconds from the kill to the successor's link, from there to its word that it has its state, steps
    that were made again, seconds of these).

    `said`: what the supervisor says.
    """
    shard, pid, began, linked = supervisor.shards[0], supervisor.shards[0].pid, time.monotonic(), 0.0
    recovered = shard.log.read_text().count(RECOVERED)
    os.kill(pid, signal.SIGKILL)
    while time.monotonic() - began < DEADLINE_SECONDS:
        supervisor.check()
        if not linked and shard.pid != pid and f"{shard.name} restarted, pid {shard.pid}" in said:
            linked = time.monotonic()
        if linked and shard.log.read_text().count(RECOVERED) > recovered:
            steps, seconds = REPLAYED.findall(shard.log.read_text())[-1]
            return linked - began, time.monotonic() - linked, int(steps), float(seconds)
        time.sleep(LOOK_SECONDS)
    raise SystemExit(f"the shard was not back in {DEADLINE_SECONDS:.0f} s: {shard.last_words()}")


def quantile(values: list[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 2)


def measure(directory: Path, given: argparse.Namespace) -> dict[str, Any]:
    chance = random.Random(given.seed)
    supervision.RESTART_SECONDS_FIRST = supervision.RESTART_SECONDS_MAX = 0.1
    said: list[str] = []
    config = UpConfig(directory, shard_count=1, port=0, dashboard_port=0)
    supervisor = Supervisor(config, threading.Event(), said.append)
    supervisor.start()
    starts, beyond, replay = list[float](), list[float](), list[float]()
    steps, redone = list[float](), 0
    try:
        weights, gradients = arrays(given.parameters, 0.05), arrays(given.parameters, 0.01)
        worker = Worker(supervisor.connection.secret, "wal", weights, gradients)
        for number in range(given.rounds):
            steps += [worker.step() for _ in range(chance.randint(1, STEPS_MAX))]
            began, rest, again, seconds = kill_and_wait(supervisor, said)
            told = f"linked after {began:.2f} s, back {rest:.2f} s later"
            print(f"round {number}: {told}, {seconds:.2f} s of it for {again} steps", flush=True)
            starts.append(began)
            beyond.append(rest - seconds)
            replay.append(seconds)
            redone += again
        worker.step()
        worker.client.close()
    finally:
        supervisor.stop()
    return {
        "bench": "recovery",
        "parameters": sum(array.size for array in weights.values()),
        "rounds": given.rounds,
        "steps": len(steps),
        "step_s": round(statistics.median(steps), 2),
        "start_s": {"p50": quantile(starts, 0.5), "p95": quantile(starts, 0.95)},
        "beyond_start_and_replay_s": {"p50": quantile(beyond, 0.5), "p95": quantile(beyond, 0.95)},
        "replay_s": {"p50": quantile(replay, 0.5), "p95": quantile(replay, 0.95)},
        "steps_replayed": redone,
        "seed": given.seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parameters", type=int, default=109_000_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=None, help="a folder on the disk to be measured")
    parser.add_argument("--record", action="store_true", help="add the result to tests/faults/RESULTS.md")
    given = parser.parse_args()
    if given.dir is not None:
        given.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        line = measure(Path(folder), given)
    if given.record:
        record(line, line["beyond_start_and_replay_s"]["p95"] < BEYOND_SECONDS_MAX)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
