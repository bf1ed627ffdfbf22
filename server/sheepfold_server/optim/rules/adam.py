"""Adam (Kingma and Ba 2015, arXiv:1412.6980) and AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).

    m <- beta1 m + (1 - beta1) g      v <- beta2 v + (1 - beta2) g^2
    r = m / (1 - beta1^n) / (sqrt(v / (1 - beta2^n)) + eps)        n: the bias counter
    Adam: g has + decay w, u = r      AdamW: u = r + decay w        w <- w - lr u

AdamW's (1 - lr decay) w - lr r is the same as w - lr (r + decay w).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sheepfold_server.optim.rules.rule import Root, Rule, power
from sheepfold_wire.optimizer import TensorSettings
from sheepfold_wire.rules import Adam, Settings


class AdamColumns(NamedTuple):
    """Per row: gain is 1 - beta, debias 1 / (1 - beta^n)."""

    decay: Tensor
    beta1: Tensor
    gain1: Tensor
    beta2: Tensor
    gain2: Tensor
    debias1: Tensor
    debias2: Tensor
    eps: Tensor


class AdamRule(Rule):
    """Adam, and AdamW where the formula says `adamw`."""

    name = "adam"
    state = ("first", "second")
    columns = AdamColumns._fields

    @staticmethod
    def formula(settings: Settings) -> tuple[str, ...]:
        assert isinstance(settings, Adam)
        return settings.rule, settings.eps_place

    def scalars(self, tensor: TensorSettings, applied: int, learning_rate: float) -> Sequence[float]:
        s = tensor.settings
        assert isinstance(s, Adam)
        return (tensor.weight_decay, *moment_scalars(s.beta1, s.beta2, applied), s.eps)

    def direct(
        self,
        weights: Tensor,
        gradient: Tensor,
        state: Sequence[Tensor],
        columns: Sequence[Tensor],
        root: Root,
    ) -> None:
        c = AdamColumns(*columns)
        is_decoupled = "adamw" in self.kind
        first, second = state
        if not is_decoupled:
            gradient.add_(weights * c.decay)
        update_moments(gradient, first, second, c.beta1, c.gain1, c.beta2, c.gain2)
        divisor = denominator(second * c.debias2, c.eps, "inside" in self.kind, root)
        torch.div(first * c.debias1, divisor, out=gradient)
        if is_decoupled:
            gradient.add_(weights * c.decay)


def update_moments(
    gradient: Tensor,  # (rows, 1024) fp32, as are the moments
    first: Tensor,  # updated in place
    second: Tensor,  # updated in place
    beta1: Tensor,  # (rows, 1), as are the others
    gain1: Tensor,
    beta2: Tensor,
    gain2: Tensor,
) -> None:
    """Running means of the gradient and of its square.

    The square is formed as (gain2 * g) * g. It overflows fp32 for |g| above about 5e20, far above what a
    step may hold (`core.decide.MAX_ABS_APPLIED`).
    """
    second.mul_(beta2).add_((gradient * gain2).mul_(gradient))
    first.mul_(beta1).add_(gradient * gain1)


def moment_scalars(beta1: float, beta2: float, applied: int) -> tuple[float, ...]:
    """beta1, gain1, beta2, gain2, debias1, debias2 of the n-th applied step."""
    return (
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        1.0 / (1.0 - power(beta1, applied)),
        1.0 / (1.0 - power(beta2, applied)),
    )


def denominator(
    square: Tensor,  # (rows, 1024) fp32, a temporary
    eps: Tensor,  # (rows, 1)
    is_inside: bool,
    root: Root,
) -> Tensor:
    """sqrt(square) + eps, or sqrt(square + eps)."""
    return root(square.add_(eps)) if is_inside else root(square).add_(eps)
