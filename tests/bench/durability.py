"""What durability costs a step, end to end: two levels, and a step while a checkpoint is written.

    python -m tests.bench.durability [--parameters 27000000] [--shards 1] [--compute 0] [--record]

Real servers under `up`'s supervisor, one NumPy worker for two jobs of the same model, of level `wal` and of
level `checkpoint`, whose steps take turns. Then steps of the first take turns with and without a checkpoint,
as many as it takes to be written: all of them, and the one that it begins with, by themselves. By default a
step is nothing but pull and push; with --compute it waits in between, as for an accelerator. Medians of
paired ratios; prints one line of JSON. Time grows with the parameters: 27 million take about three minutes on
two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.faults.results import record

import sheepfold
from sheepfold_server.shell.supervisor import Supervisor, UpConfig
from sheepfold_wire import messages as m
from sheepfold_wire.control import Control
from sheepfold_wire.job import Job, parse_job

ROWS = 1024
WARM_UP = 24
"""Steps of each job before anything is measured: files of the log are then used again, not new."""
SAVE_SECONDS = 600.0
RATIO_MAX = 1.1
"""What is aimed at, for both: a record above it is red."""

Arrays = dict[str, "np.typing.NDArray[np.float32]"]


def job_of(level: str) -> Job:
    return parse_job(
        {
            "name": f"level-{level}",
            "batch": {"samples": 1, "slot_samples": 1},
            "data": {"mode": "free"},
            "optimizer": {"lr": {"peak": 0.001}},
            "stop": {"steps": 1_000_000},
            "numerics": {"kernel": "eager"},
            "durability": {"level": level},
            "checkpoint": {"every_minutes": 0},
        }
    )


class Worker:
    """One worker of one job, which makes every step alone."""

    def __init__(
        self, address: str, level: str, weights: Arrays, gradients: Arrays, compute_seconds: float = 0.0
    ) -> None:
        self.job, self._gradients, self._compute_seconds = job_of(level), gradients, compute_seconds
        self.client = sheepfold.Client(self.job.name, weights, address=address, config=self.job)

    def step(self) -> float:
        """Seconds from the lease, with its pull, to the next version."""
        began = time.perf_counter()
        lease = self.client.lease()
        assert lease is not None
        time.sleep(self._compute_seconds)  # on an accelerator: no processor of ours is needed
        counts = self.client.push(self._gradients, samples=1)
        assert counts
        self.client.pull(lease.base_version + 1)
        return time.perf_counter() - began


def in_turns(
    rounds: int, first: Callable[[], float], second: Callable[[], float]
) -> list[tuple[float, float]]:
    """Pairs, the order of which alternates."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        pairs.append((a, b))
    return pairs


class Saving:
    """Steps of a worker while a checkpoint is written."""

    def __init__(self, control: Control, worker: Worker) -> None:
        self._control, self._worker = control, worker
        self.seconds: list[float] = []
        """That checkpoints took."""
        self.first_steps: list[float] = []
        """Those with which checkpoints began: the state is copied between them and the next."""

    def step(self) -> float:
        """The mean of the steps that begin before it is written."""
        thread = threading.Thread(target=self._save)
        thread.start()
        took = [self._worker.step()]
        while thread.is_alive():
            took.append(self._worker.step())
        thread.join()
        self.first_steps.append(took[0])
        return statistics.mean(took)

    def _save(self) -> None:
        began = time.perf_counter()
        self._control.checkpoint(m.CheckpointRequest(self._worker.job.name, "bench"))
        self.seconds.append(time.perf_counter() - began)


def median_ratio(pairs: list[tuple[float, float]]) -> float:
    return round(statistics.median(a / b for a, b in pairs), 3)


def arrays(parameters: int, scale: float) -> Arrays:
    draw, layers = np.random.default_rng(1), max(1, parameters // (ROWS * ROWS))
    return {
        f"layer{i}": (draw.standard_normal((ROWS, ROWS)) * scale).astype(np.float32) for i in range(layers)
    }


def measure(directory: Path, given: argparse.Namespace) -> dict[str, Any]:
    config = UpConfig(
        directory,
        shard_count=given.shards,
        port=0,
        dashboard_port=0,
        checkpoint_url=str(directory / "checkpoints"),
    )
    supervisor = Supervisor(config, threading.Event(), print)
    weights, gradients = arrays(given.parameters, 0.05), arrays(given.parameters, 0.01)
    supervisor.start()
    try:
        address = supervisor.coordinator.address
        logged, kept = (
            Worker(address, level, weights, gradients, given.compute) for level in ("wal", "checkpoint")
        )
        for worker in (logged, kept):
            for _ in range(WARM_UP):
                worker.step()
        levels = in_turns(given.rounds, logged.step, kept.step)
        with Control(address, SAVE_SECONDS) as control:
            saves = Saving(control, logged)
            saving = in_turns(given.rounds, saves.step, logged.step)
        for worker in (logged, kept):
            worker.client.close()
    finally:
        supervisor.stop()
    return {
        "bench": "durability",
        "parameters": sum(array.size for array in weights.values()),
        "shards": given.shards,
        "compute_s": given.compute,
        "rounds": given.rounds,
        "step_wal_s": round(statistics.median(a for a, _ in levels), 4),
        "step_checkpoint_level_s": round(statistics.median(b for _, b in levels), 4),
        "wal_ratio": median_ratio(levels),
        "step_while_saving_s": round(statistics.median(a for a, _ in saving), 4),
        "saving_ratio": median_ratio(saving),
        "first_step_ratio": median_ratio(
            [(first, calm) for first, (_, calm) in zip(saves.first_steps, saving, strict=True)]
        ),
        "save_s": round(statistics.median(saves.seconds), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parameters", type=int, default=27_000_000)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--compute", type=float, default=0.0, help="seconds of a step without processors")
    parser.add_argument("--dir", type=Path, default=None, help="a folder on the disk to be measured")
    parser.add_argument("--record", action="store_true", help="add the result to tests/faults/RESULTS.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        line = measure(Path(folder), given)
    if given.record:
        record(line, max(line["wal_ratio"], line["saving_ratio"]) <= RATIO_MAX)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
