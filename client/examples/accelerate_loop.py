"""A loop of Hugging Face's Accelerate: prepare, accumulate, backward and step stay as they are.

Start it as plain processes, not by `accelerate launch`: the server averages.

    pip install 'sheepfold[hf]'
    SHEEPFOLD=local: python client/examples/accelerate_loop.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sheepfold

SAMPLES, MICRO_BATCH, ACCUMULATED = 2_048, 32, 2
JOB = {
    "name": "accelerate-loop",
    "batch": {"samples": 128, "slot_samples": MICRO_BATCH * ACCUMULATED},
    "data": {"samples": SAMPLES, "seed": 1},
    "optimizer": {"lr": {"peak": 0.05, "schedule": "poly", "warmup_steps": 10}, "clip_norm": 1.0},
    "stop": {"steps": 120},
}


def data() -> TensorDataset:
    """Points of a curve."""
    x = torch.linspace(-2, 2, SAMPLES).unsqueeze(1)
    return TensorDataset(x, torch.sin(2 * x))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
    remote = sheepfold.RemoteOptimizer(model.named_parameters(), config=JOB)  # was: AdamW(model.parameters())
    loader = DataLoader(data(), batch_sampler=remote.run.batch_sampler(MICRO_BATCH))  # was: batch_size=32
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    model, optimizer, loader = accelerator.prepare(model, remote, loader)
    loss = torch.tensor(torch.nan)  # stays so if the job has ended before this worker came
    for x, y in remote.run.batches(loader):  # was: for epoch in ...: for x, y in loader
        with accelerator.accumulate(model):
            loss = F.mse_loss(model(x), y)
            accelerator.backward(loss)
            # was: clip_grad_norm_ and a scheduler; the server clips, after adding up, and has the schedule
            remote.loss = loss
            optimizer.step()
            optimizer.zero_grad()
    print(f"version {remote.run.version}: loss {loss.item():.4f}")
    remote.run.close()


if __name__ == "__main__":
    main()
