"""A loop that has an optimizer already: only the line that makes it changes.

SHEEPFOLD=local: python client/examples/existing_loop.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import sheepfold

JOB = {
    "name": "existing-loop",
    "batch": {"samples": 128, "slot_samples": 64},
    "data": {"mode": "free"},
    "optimizer": {"lr": {"peak": 0.05, "schedule": "poly", "warmup_steps": 5}},
    "stop": {"steps": 40},
}


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    """64 points of a curve, drawn anew at each call: with free data the worker brings its own."""
    x = torch.rand(64, 1) * 4 - 2
    return x, torch.sin(2 * x)


def main() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
    # was: AdamW(model.parameters())
    optimizer = sheepfold.RemoteOptimizer(model.named_parameters(), config=JOB, weight=64)
    loss = torch.tensor(torch.nan)  # stays so if the job has ended before this worker came
    while not optimizer.run.has_ended:
        x, y = batches()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"version {optimizer.run.version}: loss {loss.item():.4f}")
    optimizer.run.close()


if __name__ == "__main__":
    main()
