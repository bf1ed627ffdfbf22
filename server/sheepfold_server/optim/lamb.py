"""LAMB, Algorithm 2 of You et al. 2020 (arXiv:1904.00962v5): two elementwise passes over whole rows.

Every operation is a single multiplication, addition, division or square root with one correctly rounded
result. Fused forms (alpha=, addcmul, addcdiv, lerp) are left out: torch's vector path may contract them
to one rounding where its scalar tail rounds twice, and the bits would depend on tile and thread count.
torch.sqrt on fp32 is not correctly rounded on CPUs with MKL (one value in six is off by a bit), so the
root goes through fp64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LambConfig:
    """Preset `paper-v5`: moments debiased, epsilon outside the root, decay inside the update, phi = identity,
    ratio 1 where a norm is 0, every slice adapted, no clip.

    `clip_norm` is the threshold c of g / max(1, ||G|| / c) over the whole model, after aggregation; the
    scale itself is decided once for all shards and handed to the first pass.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            _require(0.0 <= getattr(self, name) < 1.0, name, getattr(self, name), "0 <= x < 1, e.g. 0.9")
        # An epsilon that fp32 rounds to 0 would make 0 / 0 of every gradient that is always zero.
        _require(
            math.isfinite(self.epsilon) and float(np.float32(self.epsilon)) > 0,
            "epsilon",
            self.epsilon,
            "a positive fp32 number, e.g. 1e-6",
        )
        _require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "weight_decay",
            self.weight_decay,
            "0 or a positive number, e.g. 0.01",
        )
        if self.clip_norm is not None:
            _require(
                math.isfinite(self.clip_norm) and self.clip_norm > 0,
                "clip_norm",
                self.clip_norm,
                "a positive number, e.g. 1.0, or none",
            )


def _require(holds: bool, field: str, value: float, wanted: str) -> None:
    if not holds:
        raise ValueError(f"optimizer.{field}={value}: give {wanted}")


class Moments(NamedTuple):
    """Running means of the gradient (m) and of its square (v), both (rows, 1024) fp32."""

    first: Tensor
    second: Tensor


class Corrections(NamedTuple):
    """1 - beta1**n and 1 - beta2**n of each row's tensor, both (rows, 1) fp32."""

    first: Tensor
    second: Tensor


def bias_correction(beta: float, applied_steps: int) -> float:
    """1 - beta**n in fp64.

    By repeated squaring, not libm's pow, whose last bit differs between C libraries: replay on another
    machine must give the same bits.
    """
    power, base, exponent = 1.0, beta, applied_steps
    while exponent:
        if exponent & 1:
            power *= base
        base *= base
        exponent >>= 1
    return 1.0 - power


def correction_table(config: LambConfig, applied_steps: list[int]) -> npt.NDArray[np.float32]:
    """(2, tensors): 1 - beta1**n and 1 - beta2**n, rounded once to fp32; 1 for tensors never updated."""
    betas = (config.beta1, config.beta2)
    table = [[bias_correction(beta, n) if n else 1.0 for n in applied_steps] for beta in betas]
    return np.array(table, np.float64).astype(np.float32)


def lamb_directions(
    weights: Tensor,  # (rows, 1024) fp32
    gradient: Tensor,  # (rows, 1024) fp32: the mean, already clipped; overwritten with u
    moments: Moments,  # updated in place
    corrections: Corrections,
    config: LambConfig,
    scratch: Tensor,  # (rows, 1024) fp32, overwritten
    wide: Tensor,  # (rows, 1024) fp64, overwritten
) -> None:
    """Pass 1: the moments, and u = m^ / (sqrt(v^) + epsilon) + weight_decay * w over the gradient.

    The squared gradient is formed as ((1 - beta2) * g) * g. It overflows fp32 for |g| above about
    5e20; v is then infinite for good and such an element follows its weight decay only.
    """
    first, second = moments
    torch.mul(second, config.beta2, out=second)
    torch.mul(gradient, 1.0 - config.beta2, out=scratch)
    torch.mul(scratch, gradient, out=scratch)
    torch.add(second, scratch, out=second)
    torch.mul(first, config.beta1, out=first)
    torch.mul(gradient, 1.0 - config.beta1, out=scratch)
    torch.add(first, scratch, out=first)
    torch.div(second, corrections.second, out=scratch)
    rounded_root(scratch, wide)
    torch.add(scratch, config.epsilon, out=scratch)
    torch.div(first, corrections.first, out=gradient)
    torch.div(gradient, scratch, out=gradient)
    torch.mul(weights, config.weight_decay, out=scratch)
    torch.add(gradient, scratch, out=gradient)


def rounded_root(
    values: Tensor,  # (rows, 1024) fp32, >= 0, replaced by their square roots
    wide: Tensor,  # (rows, 1024) fp64, overwritten
) -> None:
    """The correctly rounded fp32 square root on every device whose fp64 root errs by less than 4 ulp.

    With x scaled to [1, 4), x is a multiple of 2**-23 and a rounding boundary m of fp32 is an odd multiple
    of 2**-24 below 2. So x - m**2 is a non-zero multiple of 2**-48, and the root is at least 2**-50, which
    is 4 ulp of fp64, away from m: a smaller error cannot carry it over the boundary.
    """
    wide.copy_(values)
    torch.sqrt(wide, out=wide)
    values.copy_(wide)


def lamb_apply(
    weights: Tensor,  # (rows, 1024) fp32, updated in place
    directions: Tensor,  # (rows, 1024) fp32, u; overwritten
    coefficients: Tensor,  # (rows, 1) fp32: learning rate * trust ratio of each row's slice
) -> None:
    """Pass 2: w <- w - coefficient * u. A coefficient of +0 on a u of +0 leaves every bit of w."""
    torch.mul(directions, coefficients, out=directions)
    torch.sub(weights, directions, out=weights)


def trust_ratio(weight_norm: float, update_norm: float) -> float:
    """Layer-wise multiplier of a step, ||w|| / ||u||, and 1 where either norm is 0 or not finite.

    Source: You et al. 2020, Algorithm 2, phi = identity. The zero case follows the authors' released
    code, not the paper: a zero-initialised bias must still move.
    """
    if not (math.isfinite(weight_norm) and math.isfinite(update_norm)):
        return 1.0
    if weight_norm <= 0.0 or update_norm <= 0.0:
        return 1.0
    return weight_norm / update_norm


def step_coefficient(learning_rate: float, ratio: float) -> tuple[float, float]:
    """(learning_rate * ratio rounded once to fp32, the ratio used).

    A product beyond fp32 (norms some 1e38 apart) would turn zeros of u into NaN: such a slice takes ratio 1.
    """
    largest = float(np.finfo(np.float32).max)
    used = ratio if abs(learning_rate * ratio) <= largest else 1.0
    return float(np.float32(learning_rate * used)), used
