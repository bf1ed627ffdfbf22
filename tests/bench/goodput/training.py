"""What a rank of a peer trains: the same tensor, computing time and LAMB as sheepfold's workers and shards.

Imports nothing of sheepfold, so that a peer can live in an environment of its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from tests.bench.goodput.account import Told
from torch import Tensor

ROWS, COLUMNS = 200, 1024
GRADIENT, RATE = 0.001, 0.001
SLOTS_PER_WORKER = 2
BETA1, BETA2, EPSILON, DECAY = 0.9, 0.999, 1e-6, 0.01


class Training:
    """Weights, moments and the count of steps."""

    def __init__(self, initial: Tensor | None = None) -> None:
        self.weights = torch.full((ROWS, COLUMNS), 0.001) if initial is None else initial.clone()
        self.mean, self.square = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.steps = 0

    def apply(self, gradient: Tensor) -> None:
        """One step of LAMB (You et al. 2020, Algorithm 2), the tensor being one slice."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        root = (self.square / (1 - BETA2**self.steps)).sqrt_().add_(EPSILON)
        update = (self.mean / (1 - BETA1**self.steps)).div_(root).add_(self.weights, alpha=DECAY)
        norms = float(self.weights.norm()), float(update.norm())
        self.weights.sub_(update, alpha=RATE * (norms[0] / norms[1] if all(norms) else 1.0))

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "mean": self.mean, "square": self.square, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights, self.mean, self.square = state["weights"], state["mean"], state["square"]
        self.steps = int(state["steps"])

    def save(self, path: Path) -> None:
        """Whole or not at all, whenever this process is killed."""
        part = path.with_suffix(".part")
        torch.save(self.state_dict(), part)
        part.replace(path)

    def load(self, path: Path) -> None:
        if path.exists():
            self.load_state_dict(torch.load(path, weights_only=True))


def computed(compute_seconds: float) -> Tensor:
    """The mean gradient of a rank's slots, which takes time and no processor, as on an accelerator."""
    for _ in range(SLOTS_PER_WORKER):
        time.sleep(compute_seconds)
    return torch.full((ROWS, COLUMNS), GRADIENT)


class Progress:
    """Where all ranks of a system tell what is done: lines appended to one file, each by one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tell(self, step: int, share: float = 1.0, is_counted: bool = True) -> None:
        os.write(self._file, Told(time.monotonic(), step, share, is_counted).line().encode())
