"""What every system is given: shapes, initial weights, and the gradient of each rank and step.

A gradient is a window into one block of noise, so that no memory goes into having another one every step and
no model runs while the clock does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from tests.bench.kernel import MODELS, Shapes
from torch import Tensor

Flat = npt.NDArray[np.float32]
RATE, DECAY, EPSILON = 1e-3, 0.01, 1e-6
WINDOWS, APART = 16, 61
"""A step's window begins so many elements after the last one's; odd, so that no row stays itself."""


@dataclass(frozen=True)
class Given:
    """A model by name, so that a process that is spawned makes its own."""

    model: str

    @property
    def shapes(self) -> Shapes:
        return MODELS[self.model]

    @property
    def elements(self) -> int:
        return sum(prod(shape) for shape in self.shapes)

    def weights(self) -> Flat:
        """(elements,): version 0, the same for all."""
        return np.random.default_rng(0).standard_normal(self.elements, np.float32) * np.float32(0.02)

    def noise(self, rank: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(elements + WINDOWS * APART,) in the dtype in which a model would have its gradients."""
        count = self.elements + WINDOWS * APART
        drawn = np.random.default_rng(1 + rank).standard_normal(count, np.float32) * np.float32(1e-3)
        return torch.from_numpy(drawn).to(dtype)

    def gradient(self, noise: Tensor, step: int) -> Tensor:
        """(elements,): a view of the rank's noise."""
        return noise.narrow(0, step % WINDOWS * APART, self.elements)

    def views(self, flat: Tensor) -> list[Tensor]:
        """One tensor of each shape, over the memory of `flat`."""
        split = flat.split([prod(shape) for shape in self.shapes])
        return [piece.view(shape) for piece, shape in zip(split, self.shapes, strict=True)]


def oracle(given: Given, workers: int, steps: int) -> Flat:
    """The weights after so many steps, by one process: LAMB with fp64 norms (You et al., Algorithm 2)."""
    w = given.weights()
    m, v = np.zeros_like(w), np.zeros_like(w)
    noise = [given.noise(rank) for rank in range(workers)]
    for step in range(steps):
        total = given.gradient(noise[0], step).numpy().copy()
        for each in noise[1:]:
            total += given.gradient(each, step).numpy()
        total /= np.float32(workers)
        m += np.float32(0.1) * (total - m)
        v *= np.float32(0.999)
        v += np.float32(0.001) * total * total
        root = np.sqrt(v / np.float32(1 - 0.999 ** (step + 1))) + np.float32(EPSILON)
        u = m / np.float32(1 - 0.9 ** (step + 1)) / root + np.float32(DECAY) * w
        for own, update in zip(*(given.views(torch.from_numpy(x)) for x in (w, u)), strict=True):
            norms = [float(torch.linalg.vector_norm(x, dtype=torch.float64)) for x in (own, update)]
            own -= RATE * (norms[0] / norms[1] if all(norms) else 1.0) * update
    return w
