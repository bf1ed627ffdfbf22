"""A worker of `tests/bench/plan.py` that computes nothing, and tells what the moves of a step took.

python -m tests.bench.plan_worker ADDRESS JOB_JSON PARAMETERS SHARD_PIDS PULLS TENSORS

Says that it is attached, and begins when it is told a line. Then prints a line of JSON for each slot, from
the beginning of its push to that of the next one: `step` if a version came between, else `slot`; seconds;
CPU-seconds of this process and of the shards. Before the first one, such lines for pulls alone, of a version
that stays. Ends with the job.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

import sheepfold
from sheepfold_wire.job import Job, job_from_json

COLUMNS = 1024
ROWS_MAX = 256
LAYER = ROWS_MAX * COLUMNS
"""Parameters of each layer but the last one."""

Moment = tuple[float, float, float]


def arrays(parameters: int, scale: float, tensors: int = 0) -> dict[str, np.typing.NDArray[np.float32]]:
    """`tensors` of equal size; 0: layers of up to 262,144 parameters."""
    draw, made, rows = np.random.default_rng(1), {}, max(1, parameters // COLUMNS)
    if tensors:
        size = parameters // tensors
        return {f"t{n}": (draw.standard_normal(size) * scale).astype(np.float32) for n in range(tensors)}
    for first in range(0, rows, ROWS_MAX):
        shape = (min(ROWS_MAX, rows - first), COLUMNS)
        made[f"layer{first}"] = (draw.standard_normal(shape) * scale).astype(np.float32)
    return made


def cpu_seconds(pids: list[int]) -> float:
    """Of all threads that live, to the nanosecond."""
    return sum(
        int(task.read_text().split()[0]) / 1e9
        for pid in pids
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def moment(shards: list[int]) -> Moment:
    return time.monotonic(), time.process_time(), cpu_seconds(shards)


def tell(kind: str, before: Moment, now: Moment) -> None:
    print(json.dumps([kind, *(b - a for a, b in zip(before, now, strict=True))]), flush=True)


def pull(address: str, job: Job, shards: list[int], pulls: int) -> None:
    with sheepfold.Client(job.name, address=address) as reader:
        reader.pull()
        for _ in range(pulls):
            before = moment(shards)
            reader.pull()
            tell("pull", before, moment(shards))


def main(address: str, job_json: str, parameters: str, shard_pids: str, pulls: str, tensors: str) -> None:
    weights, gradients = (arrays(int(parameters), scale, int(tensors)) for scale in (0.05, 0.01))
    shards, job = [int(pid) for pid in shard_pids.split(",")], job_from_json(job_json)
    with sheepfold.Client(job.name, weights, address=address, config=job) as worker:
        print("attached", flush=True)
        sys.stdin.readline()
        before: Moment | None = None
        version = -1
        while (lease := worker.lease()) is not None:
            if before is None and int(pulls):
                pull(address, job, shards, int(pulls))
            now = moment(shards)
            if before is not None:
                tell("step" if lease.base_version > version else "slot", before, now)
            before, version = now, lease.base_version
            worker.push(gradients, samples=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
