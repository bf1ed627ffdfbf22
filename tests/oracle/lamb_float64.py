"""LAMB in float64, written from the paper's formulas alone (You et al. 2020, arXiv:1904.00962v5, Alg. 2).

It knows nothing of rows, blocks, shards or sheepfold's code: tensors are named numpy arrays. One entry
is one slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Tensors = dict[str, npt.NDArray[np.float64]]


def weighted_mean(gradients: Sequence[Mapping[str, npt.ArrayLike]], weights: Sequence[float]) -> Tensors:
    """The mean gradient of a batch whose parts have these weights."""
    return {
        name: np.average([np.asarray(g[name], np.float64) for g in gradients], axis=0, weights=weights)
        for name in gradients[0]
    }


def clipped(gradient: Tensors, threshold: float) -> Tensors:
    """g / max(1, ||G|| / c), with ||G|| over all tensors."""
    total = np.sqrt(sum(float((g * g).sum()) for g in gradient.values()))
    return {name: g / max(1.0, total / threshold) for name, g in gradient.items()}


class Lamb:
    """x, m, v and the count of applied steps per tensor; `step` leaves out tensors without a gradient."""

    def __init__(
        self,
        weights: Mapping[str, npt.ArrayLike],
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        self.x: Tensors = {name: np.array(w, np.float64) for name, w in weights.items()}
        self.m: Tensors = {name: np.zeros_like(x) for name, x in self.x.items()}
        self.v: Tensors = {name: np.zeros_like(x) for name, x in self.x.items()}
        self.n = dict.fromkeys(self.x, 0)
        self.ratio: dict[str, float] = {}
        self.beta1, self.beta2, self.epsilon, self.decay = beta1, beta2, epsilon, weight_decay

    def step(self, gradient: Tensors, learning_rate: float) -> None:
        for name, g in gradient.items():
            self.n[name] += 1
            self.m[name] = self.beta1 * self.m[name] + (1 - self.beta1) * g
            self.v[name] = self.beta2 * self.v[name] + (1 - self.beta2) * g**2
            m_hat = self.m[name] / (1 - self.beta1 ** self.n[name])
            v_hat = self.v[name] / (1 - self.beta2 ** self.n[name])
            r = m_hat / (np.sqrt(v_hat) + self.epsilon)
            u = r + self.decay * self.x[name]
            x_norm, u_norm = np.sqrt((self.x[name] ** 2).sum()), np.sqrt((u**2).sum())
            self.ratio[name] = x_norm / u_norm if x_norm > 0 and u_norm > 0 else 1.0
            self.x[name] = self.x[name] - learning_rate * self.ratio[name] * u
