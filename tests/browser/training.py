"""A worker of this process that computes a step when it is told to."""

from __future__ import annotations

import torch

import sheepfold
from sheepfold.run import Run

LAYERS = 200


class ManyLayers(torch.nn.Module):
    """400 parameters of a few elements each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(LAYERS))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            values = values + 0.01 * layer(values)
        return values


class Training:
    """A worker of this process that computes a step when `advance` says so."""

    def __init__(self, address: str, job: str, model: torch.nn.Module, features: int) -> None:
        config = {
            "batch": {"samples": 16, "slot_samples": 8},
            "data": {"samples": 64},
            "optimizer": {"lr": {"peak": 0.02, "schedule": "poly", "warmup_steps": 2}},
            "stop": {"steps": 500},
        }
        self.model, self._features = model, features
        self.run: Run = sheepfold.attach(model, job, address=address, config=config)
        self._slots = self.run.slots()

    def advance(self, steps: int) -> None:
        """Compute so many steps."""
        for _ in range(2 * steps):
            slot = next(self._slots)
            torch.manual_seed(int(slot.indices[0]))
            inputs = torch.randn(slot.samples, self._features)
            loss = (self.model(inputs) - inputs.flip(1)[:, : self._features]).square().mean()
            slot.backward(loss)
            self.run.log({"error": loss.sqrt()})
            self.run.step()

    def close(self) -> None:
        self._slots.close()  # type: ignore[attr-defined]
        self.run.close()
