"""The plain loop with a parameter server and workers as Ray actors, driven from one script."""

from __future__ import annotations

import ray
import torch
import torch.nn.functional as F
from torch import nn

STEPS, SAMPLES, WORKERS = 40, 256, 4
Weights = dict[str, torch.Tensor]


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """2,048 points in 16 dimensions; the class is the sign of a fixed direction."""
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(2_048, 16, generator=draw)
    return points, (points @ torch.randn(16, generator=draw) > 0).long()


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))


@ray.remote
class Server:
    """Model and optimizer."""

    def __init__(self) -> None:
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)

    def weights(self) -> Weights:
        return self.model.state_dict()

    def step(self, *gradients: list[torch.Tensor]) -> Weights:
        for parameter, parts in zip(self.model.parameters(), zip(*gradients, strict=True), strict=True):
            parameter.grad = torch.stack(parts).mean(0)
        self.optimizer.step()
        return self.weights()


@ray.remote
class Worker:
    """Gradients of a part of the batch."""

    def __init__(self) -> None:
        self.x, self.y = data()
        self.model = network()

    def gradients(self, weights: Weights, indices: torch.Tensor) -> list[torch.Tensor]:
        self.model.load_state_dict(weights)
        loss = F.cross_entropy(self.model(self.x[indices]), self.y[indices])
        return list(torch.autograd.grad(loss, list(self.model.parameters())))


def main() -> None:
    ray.init()
    x, y = data()
    server, workers = Server.remote(), [Worker.remote() for _ in range(WORKERS)]
    weights = server.weights.remote()
    for _ in range(STEPS):
        indices = torch.randperm(len(x))[:SAMPLES].chunk(WORKERS)
        parts = [w.gradients.remote(weights, part) for w, part in zip(workers, indices, strict=True)]
        weights = server.step.remote(*parts)
    model = network()
    model.load_state_dict(ray.get(weights))
    accuracy = (model(x).argmax(1) == y).float().mean().item()
    print(f"step {STEPS}: accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
