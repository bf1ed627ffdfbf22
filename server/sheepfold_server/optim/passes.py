"""The four passes over rows, as functions of tensors alone: run in tiles, or compiled as a whole.

One source for both kernels and every device. Each row is computed from itself and its own columns, so any
cut into calls gives the same bits within one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sheepfold_server.optim.norms import row_partials
from sheepfold_server.optim.rules.rule import Root, Rule


def decoded(
    part: Tensor,  # (rows, 1024) in the codec's dtype
    scales: Tensor | None,  # (rows, 1) fp32; None: 1
) -> Tensor:  # (rows, 1024) fp32; `part` itself if it is that already
    """What the encoded elements stand for: themselves, or one fp32 product with their row's scale."""
    values = part.to(torch.float32)
    return values if scales is None else values * scales


def fold(
    total: Tensor,  # (rows, 1024) fp32, updated in place
    part: Tensor,  # (rows, 1024) in the codec's dtype
    scales: Tensor | None,  # (rows, 1) fp32 of int8
    factor: Tensor | None,  # () fp32; None: 1
    is_first: bool | Tensor,  # () bool; whether `total` holds nothing yet
) -> None:
    """total <- total + factor * part; the first one is copied.

    Adding -0.0 onto a zero would lose its sign, and one slot holding g would no longer equal the step of g.
    """
    if isinstance(is_first, Tensor):
        assert factor is not None, "a compiled fold multiplies always"
        term = decoded(part, scales).mul(factor)
        total.copy_(torch.where(is_first, term, total + term))
        return
    if is_first:
        total.copy_(part if scales is None else decoded(part, scales))
        if factor is not None:
            total.mul_(factor)
    else:
        term = decoded(part, scales)
        total.add_(term if factor is None else term * factor)


def fold_last(
    total: Tensor,  # (rows, 1024) fp32: the sum, replaced by the mean
    part: Tensor,  # (rows, 1024) in the codec's dtype
    scales: Tensor | None,  # (rows, 1) fp32 of int8
    factor: Tensor | None,  # () fp32; None: 1
    is_first: bool | Tensor,  # () bool
    divisor: Tensor,  # () fp32 on the device: a host scalar would be turned into a multiplication on CUDA
    squares: Tensor,  # (rows,) fp64, receives each row's sum of squares
    largest: Tensor,  # (rows,) fp32, receives each row's largest magnitude
) -> None:
    """The last contribution of a step: fold, divide, and what the decision needs, in one pass.

    A value that is not finite leaves its row's sum of squares not finite: fp64 holds every fp32 square.
    """
    fold(total, part, scales, factor, is_first)
    total.div_(divisor)
    squares.copy_(row_partials(total))
    largest.copy_(total.abs().amax(1))


def first_pass(
    rule: Rule,
    root: Root,
    weights: Tensor,  # (rows, 1024) fp32
    total: Tensor,  # (rows, 1024) fp32: the mean gradient, overwritten with u
    columns: Tensor,  # (rows, len(rule.columns)) fp32, contiguous
    clip: Tensor | None,  # () fp32; None: 1
    weight_partials: Tensor,  # (rows,) fp64, written
    update_partials: Tensor,  # (rows,) fp64, written
    state: Sequence[Tensor],  # (rows, 1024) fp32 each, updated in place
) -> None:
    """Clip, moments, direction, and the partials of both norms."""
    if clip is not None:
        total.mul_(clip)
    values = columns.unsqueeze(2).unbind(1)
    rule.direct(weights, total, state, values, root)
    weight_partials.copy_(row_partials(rule.normed(weights, values), rule.norm_order))
    update_partials.copy_(row_partials(total, rule.norm_order))


def second_pass(
    rule: Rule,
    weights: Tensor,  # (rows, 1024) fp32, updated in place
    total: Tensor,  # (rows, 1024) fp32: u
    columns: Tensor,  # (rows, len(rule.apply_columns)) fp32, contiguous
    copies: Sequence[Tensor],  # (rows, 1024) each, in the dtypes that pulls ask for; written
    state: Sequence[Tensor],  # (rows, 1024) fp32 each
) -> None:
    """New weights, and their encoded copies."""
    rule.apply(weights, total, state, columns.unsqueeze(2).unbind(1))
    for copy in copies:
        copy.copy_(weights)


def eager_root(values: Tensor) -> Tensor:
    """1 / (1 / sqrt(x)), each correctly rounded: within 1.1 ulp of the root, and a function of x alone.

    torch.sqrt of fp32 is neither in eager mode on CPUs with MKL: one value in six is off by a bit there, and
    its vector path need not agree with its tail. torch.rsqrt divides by the processor's own root. A root by
    way of fp64 would be correctly rounded, and takes five times as long.
    """
    return values.rsqrt().reciprocal_()


def compiled_root(values: Tensor) -> Tensor:
    """The processor's root, which the compiler emits: correctly rounded on CPUs."""
    return values.sqrt()
