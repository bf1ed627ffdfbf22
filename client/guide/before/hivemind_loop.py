"""A loop with hivemind's optimizer: `python hivemind_loop.py`, elsewhere with that one's address."""

from __future__ import annotations

import sys

import hivemind
import torch
import torch.nn.functional as F
from torch import nn

EPOCHS = 40


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    """64 points of a curve, drawn anew at each call."""
    x = torch.rand(64, 1) * 4 - 2
    return x, torch.sin(2 * x)


def main() -> None:
    dht = hivemind.DHT(initial_peers=sys.argv[1:], start=True)
    print("join by:", *map(str, dht.get_visible_maddrs()))
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="existing-loop",
        batch_size_per_step=64,
        target_batch_size=128,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.01),
    )
    optimizer.load_state_from_peers()
    while optimizer.local_epoch < EPOCHS:
        x, y = batches()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {optimizer.local_epoch}: loss {loss.item():.4f}")
    optimizer.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    main()
