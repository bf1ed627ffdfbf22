"""A training script as users submit it: $SHEEPFOLD says where the servers are. Argument: the job as JSON."""

from __future__ import annotations

import sys

import torch
from tests.integration.harness import SmallNet, slot_loss, small_data

import sheepfold
from sheepfold_wire.job import job_from_json


def main(job_json: str) -> None:
    x, y = small_data()
    model = SmallNet()
    with sheepfold.attach(model, config=job_from_json(job_json), threads=1) as run:
        for slot in run.slots():
            indices = torch.from_numpy(slot.indices.copy())
            slot.backward(slot_loss(model, x[indices], y[indices]))
            print(f"step {run.step().step}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
