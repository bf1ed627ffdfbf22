"""What hides communication behind computing: `overlap = True` in the script, `delay = 1` in the job.

    python -m tests.bench.duplex [--compute-seconds 0.1] [--workers 2] [--rounds 9] [--steps 12]

Each worker has a place in three jobs of one model, for the three ways, and takes turns of some steps in each.
Computing is waiting, a third of it in forward and the rest in backward, tensor by tensor, as for an
accelerator: the processors are free meanwhile. The last line is JSON.
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
from torch import Tensor

import sheepfold
from sheepfold.transport.shared_memory import VARIABLE

WAYS = ("in_step", "overlap", "delay")
"""Of pushing; `delay` changes what is computed as well."""
WARM_UP = 4
FORWARD = 1 / 3
"""Of the computing."""


class Waits(torch.autograd.Function):
    """One layer: nothing is computed, its gradient is given, and backward takes so many seconds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gradient: Tensor, seconds: float) -> Tensor:
        ctx.given = gradient, seconds
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> tuple[Tensor | None, ...]:
        gradient, seconds = ctx.given
        time.sleep(seconds)
        return outer[0], gradient, None, None


class Computing:
    """A worker's model, and its place in the job of one way."""

    def __init__(self, way: str, address: str, options: dict[str, Any]) -> None:
        given = Given(options["model"])
        self._model = Shaped(given, given.weights(), torch.bfloat16)
        self._gradients = given.views(given.gradient(given.noise(0, torch.bfloat16), 0))
        self._seconds, self._elements = options["compute_seconds"], given.elements
        delay = int(way == "delay")
        job = job_of(options["workers"], "bf16", "checkpoint", delay, f"hidden-{way.replace('_', '-')}")
        self.run = sheepfold.attach(
            self._model, address=address, config=job, threads=1, overlap=way == "overlap"
        )

    def step(self) -> None:
        slot = self.run.next_slot()
        assert slot is not None
        time.sleep(FORWARD * self._seconds)
        x = torch.zeros((), requires_grad=True)
        for weight, gradient in zip(self._model.parameters(), self._gradients, strict=True):
            seconds = (1 - FORWARD) * self._seconds * gradient.numel() / self._elements
            x = Waits.apply(x, weight, gradient, seconds)  # type: ignore[no-untyped-call]
        slot.backward(x, weight=1.0)
        self.run.step()


def worker(address: str, options: dict[str, Any], told: Connection) -> None:
    """Takes turns as told; answers with seconds."""
    torch.set_num_threads(1)
    os.environ[VARIABLE] = str(int(options["shared"]))
    places = {way: Computing(way, address, options) for way in WAYS}
    for way, steps in iter(told.recv, None):
        began = time.perf_counter()
        for _ in range(steps):
            places[way].step()
        told.send(time.perf_counter() - began)
    for place in places.values():
        place.run.close()
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
        for way in WAYS:
            turn(ends, way, WARM_UP)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(options.rounds):
            for at in range(len(WAYS)):
                way = WAYS[(number + at) % len(WAYS)]
                seconds[way].append(turn(ends, way, options.steps) / options.steps)
        for end in ends:
            end.send(None)
            end.recv()
        for process in processes:
            process.join()
    found: dict[str, Any] = {"bench": "duplex", **vars(options)}
    for way in WAYS:
        ratios = [now / other for now, other in zip(seconds["in_step"], seconds[way], strict=True)]
        step = median(seconds[way])
        found[way] = {
            "step_s": round(step, 4),
            "exposed_s": round(step - options.compute_seconds, 4),
            "faster": round(median(ratios), 3),
        }
        print(
            f"{way}: a step with {options.compute_seconds:g} s of computing takes {step:.4f} s, "
            f"{found[way]['faster']} times as fast as in_step",
            file=sys.stderr,
        )
    print(json.dumps(found))


def turn(ends: list[Connection], way: str, steps: int) -> float:
    """Seconds of the slowest worker."""
    for end in ends:
        end.send((way, steps))
    return max(end.recv() for end in ends)


if __name__ == "__main__":
    main()
