"""A plain loop: a small classifier on made-up data, trained through sheepfold.

    sheepfold up --shards 2 --dir ./state            # in one terminal
    python client/examples/plain_loop.py             # in as many others as you like

or, without a server:  SHEEPFOLD=local: python client/examples/plain_loop.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import sheepfold

JOB = {
    "name": "plain-loop",
    "batch": {"samples": 256, "slot_samples": 64},
    "data": {"samples": 2_048, "seed": 1},
    "optimizer": {"lr": {"peak": 0.05, "schedule": "poly", "warmup_steps": 5}},
    "stop": {"steps": 40},
}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """2,048 points in 16 dimensions; the class is the sign of a fixed direction."""
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(2_048, 16, generator=draw)
    return points, (points @ torch.randn(16, generator=draw) > 0).long()


def main() -> None:
    x, y = data()
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))
    with sheepfold.attach(model, config=JOB, threads=1) as run:
        for slot in run.slots():
            indices = torch.from_numpy(slot.indices)
            for micro_batch in indices.split(32):
                slot.backward(F.cross_entropy(model(x[micro_batch]), y[micro_batch]), weight=len(micro_batch))
            result = run.step()
            if slot.lease.slot == 0 and result.step % 10 == 0 and result.loss is not None:
                print(f"step {result.step}: loss {result.loss:.3f}")
        accuracy = (model(x).argmax(1) == y).float().mean().item()
        print(f"version {run.version}: accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
