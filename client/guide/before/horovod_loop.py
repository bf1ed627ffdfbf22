"""A loop with an optimizer that all-reduces by Horovod: `horovodrun -np 4 python horovod_loop.py`."""

from __future__ import annotations

import horovod.torch as hvd
import torch
import torch.nn.functional as F
from torch import nn

STEPS = 40


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    """64 points of a curve, drawn anew at each call."""
    x = torch.rand(64, 1) * 4 - 2
    return x, torch.sin(2 * x)


def main() -> None:
    hvd.init()
    torch.manual_seed(3 + hvd.rank())
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    for _ in range(STEPS):
        x, y = batches()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if hvd.rank() == 0:
        print(f"step {STEPS}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
