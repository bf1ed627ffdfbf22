"""The plain loop with a parameter server by torch RPC: `python torch_rpc.py RANK WORKERS`.

Rank 0 is the server, at MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import sys
import threading

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed import rpc

STEPS, SAMPLES = 40, 256


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """2,048 points in 16 dimensions; the class is the sign of a fixed direction."""
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(2_048, 16, generator=draw)
    return points, (points @ torch.randn(16, generator=draw) > 0).long()


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))


class Server:
    """Model and optimizer. The last worker of a step makes it; the others wait for it."""

    def __init__(self) -> None:
        self.parameters = list(network().parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.01)
        self.count, self.step = 0, 0
        self.ready = threading.Condition()

    def push(self, gradients: list[torch.Tensor], workers: int) -> list[torch.Tensor]:
        with self.ready:
            step = self.step
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                share = gradient / workers
                parameter.grad = share if parameter.grad is None else parameter.grad + share
            self.count += 1
            if self.count == workers:
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.count, self.step = 0, step + 1
                self.ready.notify_all()
            else:
                self.ready.wait_for(lambda: self.step > step)
            return [parameter.detach().clone() for parameter in self.parameters]


server = Server()


def push(gradients: list[torch.Tensor], workers: int) -> list[torch.Tensor]:
    """Runs on rank 0."""
    return server.push(gradients, workers)


def train(rank: int, workers: int) -> None:
    x, y = data()
    model = network()
    draw = torch.Generator().manual_seed(rank)
    for _ in range(STEPS):
        indices = torch.randperm(len(x), generator=draw)[: SAMPLES // workers]
        loss = F.cross_entropy(model(x[indices]), y[indices])
        gradients = list(torch.autograd.grad(loss, list(model.parameters())))
        weights = rpc.rpc_sync("rank0", push, args=(gradients, workers), timeout=0)
        with torch.no_grad():
            for parameter, weight in zip(model.parameters(), weights, strict=True):
                parameter.copy_(weight)
    accuracy = (model(x).argmax(1) == y).float().mean().item()
    print(f"step {STEPS}: accuracy {accuracy:.3f}")


def main() -> None:
    rank, workers = int(sys.argv[1]), int(sys.argv[2])
    rpc.init_rpc(f"rank{rank}", rank=rank, world_size=workers + 1)
    if rank:
        train(rank, workers)
    rpc.shutdown()


if __name__ == "__main__":
    main()
