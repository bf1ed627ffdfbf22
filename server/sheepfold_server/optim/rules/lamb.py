"""LAMB: You et al. 2020, arXiv:1904.00962v5, Algorithm 2; N-LAMB and NN-LAMB: its Algorithms 3 and 4.

    m <- beta1 m + beta3 g            v <- beta2 v + (1 - beta2) g^2
    m^ = m / (1 - beta1^n)            v^ = v / (1 - beta2^n)                n: the bias counter
    u = m^ / (sqrt(v^) + eps) + decay w
    ratio = phi(||w||) / ||u||        w <- w - lr ratio u

Debiasing `none` has m^ = m, v^ = v; `step_size` as well, and lr sqrt(1 - beta2^n) / (1 - beta1^n) for lr.
The Nesterov forms look one step ahead:

    m^ = mu(n+1) m / (1 - mu(1) ... mu(n+1)) + (1 - mu(n)) g / (1 - mu(1) ... mu(n))

with mu = beta1 (`constant`), or Dozat's mu(i) = beta1 (1 - 0.5 * 0.96^(i / 250)) (`scheduled`); NN-LAMB
forms v^ in the same way from g^2. Scheduled N-LAMB and NN-LAMB are experimental: the paper's appendix
could not be checked, and no public implementation was found to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sheepfold_server.optim.rules.adam import denominator, moment_scalars, update_moments
from sheepfold_server.optim.rules.rule import (
    Array,
    Norms,
    Ratios,
    Root,
    Rule,
    SliceSettings,
    layerwise_ratios,
    power,
)
from sheepfold_wire.optimizer import TensorSettings
from sheepfold_wire.rules import Lamb, NormOrder, Settings

SCHEDULE_DECAY = 0.9998367253526753
"""0.96 ** (1 / 250), so that Dozat's schedule needs integer powers only."""
PRODUCT_MIN = 2.0**-60
"""1 minus anything below is 1 in fp64."""


class LambColumns(NamedTuple):
    """Per row: gain is the factor of g; `look*`, `now*` weigh moment and gradient in the Nesterov forms."""

    decay: Tensor
    beta1: Tensor
    gain1: Tensor
    beta2: Tensor
    gain2: Tensor
    debias1: Tensor
    debias2: Tensor
    eps: Tensor
    shrink: Tensor
    look1: Tensor
    now1: Tensor
    look2: Tensor
    now2: Tensor


class LambRule(Rule):
    """LAMB and its Nesterov variants, with every disputed choice an option."""

    name = "lamb"
    state = ("first", "second")
    columns = LambColumns._fields
    apply_columns = ("coefficient", "shrink")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        assert isinstance(settings, Lamb)
        self._decay_form, self._order = settings.decay_form, settings.norm_ord
        self._eps_is_inside = settings.eps_place == "inside"
        self._looks_ahead, self._second_looks_ahead = settings.nesterov != "none", settings.nesterov_second

    @staticmethod
    def formula(settings: Settings) -> tuple[str, ...]:
        assert isinstance(settings, Lamb)
        ahead = "plain" if settings.nesterov == "none" else "second" if settings.nesterov_second else "ahead"
        return settings.decay_form, ahead, settings.eps_place, f"l{settings.norm_ord}"

    @property
    def norm_order(self) -> NormOrder:
        return self._order

    def scalars(self, tensor: TensorSettings, applied: int, learning_rate: float) -> Sequence[float]:
        s = tensor.settings
        assert isinstance(s, Lamb)
        beta1, gain1, beta2, gain2, debias1, debias2 = moment_scalars(s.beta1, s.beta2, applied)
        ahead = look_ahead(s, applied)
        if s.debias != "moments":
            debias1 = debias2 = 1.0
        if s.beta3 == "1":
            gain1 = 1.0
        moments = (beta1, gain1, beta2, gain2, debias1, debias2)
        return (tensor.weight_decay, *moments, s.eps, _shrink(tensor, learning_rate), *ahead)

    def direct(
        self,
        weights: Tensor,
        gradient: Tensor,
        state: Sequence[Tensor],
        columns: Sequence[Tensor],
        root: Root,
    ) -> None:
        c = LambColumns(*columns)
        first, second = state
        if self._decay_form == "l2":
            gradient.add_(weights * c.decay)
        update_moments(gradient, first, second, c.beta1, c.gain1, c.beta2, c.gain2)
        square = second * (c.look2 if self._looks_ahead else c.debias2)
        if self._second_looks_ahead:
            square.add_((gradient * c.now2).mul_(gradient))
        divisor = denominator(square, c.eps, self._eps_is_inside, root)
        mean = (first * c.look1).add_(gradient * c.now1) if self._looks_ahead else first * c.debias1
        torch.div(mean, divisor, out=gradient)
        if self._decay_form == "in_update":
            gradient.add_(weights * c.decay)

    def normed(self, weights: Tensor, columns: Sequence[Tensor]) -> Tensor:
        return weights * LambColumns(*columns).shrink if self._decay_form == "decoupled" else weights

    def rate_factor(self, tensor: TensorSettings, applied: int) -> float:
        """sqrt(1 - beta2^n) / (1 - beta1^n) where the step size is debiased, not the moments."""
        s = tensor.settings
        assert isinstance(s, Lamb)
        if s.debias != "step_size":
            return 1.0
        return math.sqrt(1.0 - power(s.beta2, applied)) / (1.0 - power(s.beta1, applied))

    def ratios(self, slices: SliceSettings, norms: Norms) -> Ratios:
        """Layer-wise multiplier of a step, phi(||w||) / ||u||, and 1 where either is 0.

        The zero case follows the authors' released code, not the paper: a zero-initialised bias must move.
        """
        return layerwise_ratios(
            norms.weight, norms.update, slices, norms.update == 0, np.ones(len(norms.weight))
        )

    def coefficients(
        self, tensor: TensorSettings, applied: int, learning_rate: float, ratios: Array
    ) -> Sequence[Array | float]:
        (coefficient,) = super().coefficients(tensor, applied, learning_rate, ratios)
        return coefficient, _shrink(tensor, learning_rate)

    def apply(
        self, weights: Tensor, directions: Tensor, state: Sequence[Tensor], columns: Sequence[Tensor]
    ) -> None:
        if self._decay_form == "decoupled":
            weights.mul_(columns[1])
        super().apply(weights, directions, state, columns)


def _shrink(tensor: TensorSettings, learning_rate: float) -> float:
    """What decoupled decay leaves of the weights before the step."""
    assert isinstance(tensor.settings, Lamb)
    is_decoupled = tensor.settings.decay_form == "decoupled"
    return 1.0 - learning_rate * tensor.weight_decay if is_decoupled else 1.0


def look_ahead(settings: Lamb, applied: int) -> tuple[float, float, float, float]:
    """look1, now1, look2, now2 of the n-th applied step; all 1 where nothing looks ahead."""
    if settings.nesterov == "none":
        return 1.0, 1.0, 1.0, 1.0
    is_scheduled = settings.nesterov == "scheduled"
    look1, now1 = _ahead(settings.beta1, is_scheduled, applied)
    if settings.nesterov_second:
        return look1, now1, *_ahead(settings.beta2, is_scheduled, applied)
    extra = settings.beta2 if settings.nadam_beta2 else 1.0
    return look1, now1, extra / (1.0 - power(settings.beta2, applied)), 0.0


def _ahead(beta: float, is_scheduled: bool, applied: int) -> tuple[float, float]:
    """mu(n+1) / (1 - mu(1) ... mu(n+1)) and (1 - mu(n)) / (1 - mu(1) ... mu(n))."""
    if not is_scheduled:
        return beta / (1.0 - power(beta, applied + 1)), (1.0 - beta) / (1.0 - power(beta, applied))
    products = _products(beta, applied + 1)
    return (
        scheduled(beta, applied + 1) / (1.0 - products[1]),
        (1.0 - scheduled(beta, applied)) / (1.0 - products[0]),
    )


def scheduled(beta: float, step: int) -> float:
    """Dozat's mu(i) = beta (1 - 0.5 * 0.96^(i / 250))."""
    return beta * (1.0 - 0.5 * power(SCHEDULE_DECAY, step))


@lru_cache(maxsize=4096)
def _products(beta: float, count: int) -> tuple[float, float]:
    """mu(1) ... mu(count - 1) and mu(1) ... mu(count), in this order; 0 once that changes nothing."""
    before = product = 1.0
    for step in range(1, count + 1):
        before, product = product, product * scheduled(beta, step)
        if product < PRODUCT_MIN:
            return 0.0, 0.0
    return before, product
