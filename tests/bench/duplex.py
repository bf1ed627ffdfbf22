"""What `delay = 1` buys: pushes go on while the next slot is pulled and computed.

    python -m tests.bench.duplex [--compute-seconds 0.1] [--workers 2] [--rounds 9] [--steps 12]

Each worker has a place in two jobs of one model, with delay 0 and 1, and takes turns of some steps in each.
Computing is waiting, as for an accelerator: the processors are free meanwhile. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch
from tests.bench.kernel import MODELS
from tests.bench.step.given import Given
from tests.bench.step.ours import Shaped, job_of, servers

import sheepfold
from sheepfold.transport.shared_memory import VARIABLE

DELAYS = (0, 1)
WARM_UP = 4


def worker(address: str, options: dict[str, Any], told: Connection) -> None:
    """Takes turns as told; answers with seconds."""
    torch.set_num_threads(1)
    os.environ[VARIABLE] = str(int(options["shared"]))
    given = Given(options["model"])
    gradient = given.noise(0, torch.bfloat16)
    runs = []
    for delay in DELAYS:
        model = Shaped(given, given.weights(), torch.bfloat16)
        for parameter, view in zip(model.parameters(), given.views(given.gradient(gradient, 0)), strict=True):
            parameter.grad = view
        job = job_of(options["workers"], "bf16", "checkpoint", delay)
        runs.append(sheepfold.attach(model, address=address, config=job, threads=1))
    for delay, steps in iter(told.recv, None):
        began = time.perf_counter()
        for _ in range(steps):
            assert runs[delay].next_slot() is not None
            time.sleep(options["compute_seconds"])
            runs[delay].contribute(weight=1.0)
        told.send(time.perf_counter() - began)
    for run in runs:
        run.close()
    told.send(None)


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--model", choices=MODELS, default="bert_small_11m")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--compute-seconds", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=12, help="of one turn")
    parser.add_argument("--shared", action="store_true", help="through shared memory instead of gRPC")
    options = parser.parse_args()
    os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    context = multiprocessing.get_context("spawn")
    with servers(options.shards, None) as fleet:
        ends, processes = [], []
        for _ in range(options.workers):
            mine, theirs = context.Pipe()
            process = context.Process(target=worker, args=(fleet.coordinator.address, vars(options), theirs))
            process.start()
            ends.append(mine)
            processes.append(process)
        turn(ends, 0, WARM_UP)
        turn(ends, 1, WARM_UP)
        seconds: tuple[list[float], list[float]] = ([], [])
        for number in range(options.rounds):
            for delay in DELAYS if number % 2 == 0 else DELAYS[::-1]:
                seconds[delay].append(turn(ends, delay, options.steps) / options.steps)
        for end in ends:
            end.send(None)
            end.recv()
        for process in processes:
            process.join()
    ratios = [now / later for now, later in zip(*seconds, strict=True)]
    found = {
        "bench": "duplex",
        **vars(options),
        "step_s": round(median(seconds[0]), 4),
        "step_s_delayed": round(median(seconds[1]), 4),
        "faster": round(median(ratios), 3),
        "exposed_s": round(median(seconds[0]) - options.compute_seconds, 4),
        "exposed_s_delayed": round(median(seconds[1]) - options.compute_seconds, 4),
    }
    print(
        f"a step of {options.compute_seconds:g} s of computing takes {found['step_s']} s, with delay = 1 "
        f"{found['step_s_delayed']} s: {found['faster']} times faster",
        file=sys.stderr,
    )
    print(json.dumps(found))


def turn(ends: list[Connection], delay: int, steps: int) -> float:
    """Seconds of the slowest worker."""
    for end in ends:
        end.send((delay, steps))
    return max(end.recv() for end in ends)


if __name__ == "__main__":
    main()
