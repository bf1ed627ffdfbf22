"""LARS, three algorithms that share the name.

d = g + decay w
lr_outside   b <- momentum b + ratio d              w <- w - lr b       (timm, torch_optimizer)
lr_inside    b <- momentum b + lr ratio d           w <- w - b          (You et al. 2017, optax)
paper        m <- momentum m + (1 - momentum) d     w <- w - lr phi(||w||) / ||m|| m
                                                    (Algorithm 1 of arXiv:1904.00962; unverified)

ratio = coefficient phi(||w||) / (||g|| + decay ||w|| + eps)    or / (||d|| + eps)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from sheepfold_server.optim.rules.rule import (
    Array,
    Norms,
    Ratios,
    Root,
    Rule,
    SliceSettings,
    layerwise_ratios,
)
from sheepfold_wire.optimizer import TensorSettings
from sheepfold_wire.rules import Lars, Settings


class LarsRule(Rule):
    """The momentum follows the ratio, so it moves in pass 2; in the paper's form it moves in pass 1."""

    name = "lars"
    state = ("momentum",)
    columns = ("decay", "momentum", "gain")
    apply_columns = ("into_buffer", "momentum", "from_buffer")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        assert isinstance(settings, Lars)
        self._form = settings.form

    @staticmethod
    def formula(settings: Settings) -> tuple[str, ...]:
        assert isinstance(settings, Lars)
        return ("paper" if settings.form == "paper" else "code",)

    def scalars(self, tensor: TensorSettings, applied: int, learning_rate: float) -> Sequence[float]:
        s = _lars(tensor)
        return tensor.weight_decay, s.momentum, 1.0 - s.momentum

    def direct(
        self,
        weights: Tensor,
        gradient: Tensor,
        state: Sequence[Tensor],
        columns: Sequence[Tensor],
        root: Root,
    ) -> None:
        decay, momentum, gain = columns
        gradient.add_(weights * decay)
        if self._form == "paper":
            state[0].mul_(momentum).add_(gradient * gain)
            gradient.copy_(state[0])

    def ratios(self, slices: SliceSettings, norms: Norms) -> Ratios:
        """The ratio of each form; `zero_norm_ratio` where phi(||w||) or the gradient's norm is 0."""
        if self._form == "paper":
            ones = np.ones(len(norms.weight))
            return layerwise_ratios(norms.weight, norms.update, slices, norms.update == 0, ones)
        sums = slices.spread(lambda tensor: _lars(tensor).denominator == "sum_of_norms")
        decay = slices.spread(lambda tensor: tensor.weight_decay)
        size = np.where(sums, norms.gradient + decay * norms.weight, norms.update)
        is_zero = np.where(sums, norms.gradient, norms.update) == 0
        eps = slices.spread(lambda tensor: _lars(tensor).eps)
        factor = slices.spread(lambda tensor: _lars(tensor).trust_coefficient)
        return layerwise_ratios(norms.weight, size + eps, slices, is_zero, factor)

    def coefficients(
        self, tensor: TensorSettings, applied: int, learning_rate: float, ratios: Array
    ) -> Sequence[Array | float]:
        s = _lars(tensor)
        if s.form == "lr_outside":
            return ratios, s.momentum, learning_rate
        return learning_rate * ratios, s.momentum, 1.0

    def apply(
        self, weights: Tensor, directions: Tensor, state: Sequence[Tensor], columns: Sequence[Tensor]
    ) -> None:
        into_buffer, momentum, from_buffer = columns
        if self._form == "paper":
            super().apply(weights, directions, state, columns)
            return
        state[0].mul_(momentum).add_(directions * into_buffer)
        weights.sub_(state[0] * from_buffer)


def _lars(tensor: TensorSettings) -> Lars:
    assert isinstance(tensor.settings, Lars)
    return tensor.settings
