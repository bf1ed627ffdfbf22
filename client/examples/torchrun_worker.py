"""Workers started by torchrun: it starts them and starts them again, and that is all they need it for.

    torchrun --standalone --nproc-per-node 2 --max-restarts 3 client/examples/torchrun_worker.py

No process group is made and no rank is needed: the server leases the work and adds it up. When a process
dies, torchrun starts all of its processes again, each as a new worker that goes on from the newest version.
Alone:  SHEEPFOLD=local: python client/examples/torchrun_worker.py
"""

from __future__ import annotations

import os
import sys

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sheepfold

SAMPLES = 2_048
JOB = {
    "name": os.environ.get("TORCHELASTIC_RUN_ID", "torchrun-worker"),  # one job for one torchrun
    "batch": {"samples": 128, "slot_samples": 64},
    "data": {"samples": SAMPLES, "seed": 1},
    "optimizer": {"lr": {"peak": 0.05, "schedule": "poly", "warmup_steps": 10}},
    "stop": {"steps": 120},
}


def data() -> TensorDataset:
    """Points of a curve."""
    x = torch.linspace(-2, 2, SAMPLES).unsqueeze(1)
    return TensorDataset(x, torch.sin(2 * x))


def place() -> str:
    """Which process of torchrun this is, for a person who reads the output."""
    if "RANK" not in os.environ:
        return "a process by itself"
    restarts = os.environ["TORCHELASTIC_RESTART_COUNT"]
    return f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}, restart {restarts}"


def main() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
    loss = torch.nan  # stays so if the job has ended before this worker came
    with sheepfold.attach(model, config=JOB, threads=1) as run:
        print(f"{place()}: begins at version {max(0, run.version)}", file=sys.stderr)
        loader = DataLoader(data(), batch_sampler=run.batch_sampler(micro_batch=32))
        for slot in run.slots(loader):
            for x, y in slot:
                slot.backward(F.mse_loss(model(x), y), weight=len(x))
            loss = run.step().loss or loss
        print(f"version {run.version}: loss {loss:.4f}")


if __name__ == "__main__":
    main()
