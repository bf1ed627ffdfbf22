"""A loop that has an optimizer already."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

STEPS = 40


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    """64 points of a curve, drawn anew at each call."""
    x = torch.rand(64, 1) * 4 - 2
    return x, torch.sin(2 * x)


def main() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        x, y = batches()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"step {STEPS}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
