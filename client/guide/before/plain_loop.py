"""A plain loop: a small classifier on made-up data, trained on one machine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

STEPS, WARMUP, SAMPLES = 40, 5, 256


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """2,048 points in 16 dimensions; the class is the sign of a fixed direction."""
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(2_048, 16, generator=draw)
    return points, (points @ torch.randn(16, generator=draw) > 0).long()


def rate(step: int) -> float:
    return min((step + 1) / WARMUP, (STEPS - step) / (STEPS - WARMUP))


def main() -> None:
    x, y = data()
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for step in range(STEPS):
        indices = torch.randperm(len(x))[:SAMPLES]
        for micro_batch in indices.split(32):
            loss = F.cross_entropy(model(x[micro_batch]), y[micro_batch])
            (loss * len(micro_batch) / SAMPLES).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    accuracy = (model(x).argmax(1) == y).float().mean().item()
    print(f"step {STEPS}: accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
