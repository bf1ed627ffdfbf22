"""An exponential moving average of weights (EMA)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sheepfold.numpy_client import Array


class Average:
    """ema(v) = decay ** (v - u) * ema(u) + (1 - decay ** (v - u)) * w(v), where u was averaged in before v.

    Over every version it is the usual recurrence; over fewer, a version stands for those before it that were
    not seen. In fp64; begins with the first weights. Integers, such as counters, are those of the newest.
    """

    def __init__(self, decay: float, values: Mapping[str, Array] | None = None, version: int = -1) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay = {decay}: give a number between 0 and 1, e.g. 0.999")
        self.decay = decay
        self.version = version
        self._values = {name: np.asarray(value, _dtype(value)) for name, value in (values or {}).items()}

    def add(self, version: int, weights: Mapping[str, Array]) -> None:
        """Average a newer version in; one that is not newer changes nothing."""
        if version <= self.version:
            return
        kept = self.decay ** (version - self.version) if self._values else 0.0
        for name, value in weights.items():
            if kept == 0.0 or not np.issubdtype(value.dtype, np.floating):
                self._values[name] = value.astype(_dtype(value))
            else:
                # A 0-d array times a number is a scalar of numpy, and not an array any more.
                self._values[name] = np.asarray(kept * self._values[name] + (1.0 - kept) * value)
        self.version = version

    @property
    def weights(self) -> dict[str, Array]:
        """fp32, or the integer's own type."""
        return {
            name: np.asarray(value, np.float32) if value.dtype == np.float64 else value
            for name, value in self._values.items()
        }


def _dtype(value: Array) -> np.dtype[np.generic]:
    return np.dtype(np.float64) if np.issubdtype(value.dtype, np.floating) else value.dtype
