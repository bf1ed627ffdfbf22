"""A training script for tests that interrupt it. Arguments: address, job as JSON, what it does in a slot.

Of every other process gradients leave while backward runs, which changes no bit.

fast   computes and pushes
hold   prints `slot N` and waits for a line on standard input before each push
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from tests.integration.harness import SmallNet, slot_loss, small_data

import sheepfold
from sheepfold_wire.job import job_from_json


def told_to_go_on() -> None:
    """A line came. A signal that comes just before a read would be seen only after it: so none blocks."""
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        pass
    sys.stdin.readline()


def main(address: str, job_json: str, doing: str = "fast") -> None:
    x, y = small_data()
    model = SmallNet()
    print("begins", flush=True)
    job, overlap = job_from_json(job_json), os.getpid() % 2 == 0
    run = sheepfold.attach(model, address=address, config=job, threads=1, overlap=overlap)
    print("attached", flush=True)
    for number, slot in enumerate(run.slots()):
        indices = torch.from_numpy(slot.indices.copy())
        slot.backward(slot_loss(model, x[indices], y[indices]))
        if doing == "hold":
            print(f"slot {number}", flush=True)
            told_to_go_on()
        result = run.step()
        print(f"step {result.step} {result.counted}", flush=True)
    print(f"ended at {run.version}", flush=True)
    run.close()


if __name__ == "__main__":
    # A shell's background job, which a test run may be, starts its children with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
