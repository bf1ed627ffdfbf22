"""What an optimizer is here: scalars of one tensor, a direction over rows, a ratio of one slice's norms.

    pass 1   u = direct(w, g, state)           elementwise over rows; yields row partials of ||w|| and ||u||
             ratio = ratio(||w||, ||u||, ||g||)    once per slice, on the host
    pass 2   apply(w, u, state)                elementwise: w <- w - coefficient * u

Scalars reach the passes as columns, one fp32 value per row, so that groups with other values share one
kernel, and a compiled kernel serves every value. Only what changes the formula is in `kind`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sheepfold_wire.optimizer import TensorSettings
from sheepfold_wire.rules import Layerwise, NormOrder, Settings

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]

NO_CLAMP, PHI_CLAMP, RATIO_CLAMP = 0, 1, 2
CLAMP_NAMES = ("", "phi", "ratio")

Root = Callable[[Tensor], Tensor]
"""fp32 -> square roots, a new tensor; how they are rounded depends on the kernel."""


class Norms(NamedTuple):
    """Norms of some slices, each (slices,) fp64: weights before the step, u, and the clipped gradient."""

    weight: Array
    update: Array
    gradient: Array


class Ratios(NamedTuple):
    """Trust ratios of some slices, (slices,) each, and which bound each one met: a *_CLAMP code."""

    value: Array
    clamp: Codes


class SliceSettings(NamedTuple):
    """Settings of some slices: slice i has `variants[of_slice[i]]`."""

    variants: Sequence[TensorSettings]
    of_slice: npt.NDArray[np.int64]

    def spread(self, value: Callable[[TensorSettings], object]) -> npt.NDArray[Any]:
        """(slices, ...) a value of each slice's settings."""
        spread: npt.NDArray[Any] = np.array([value(variant) for variant in self.variants])[self.of_slice]
        return spread


class Rule(ABC):
    """One optimizer under the settings that choose its formula; equal `kind` means equal formula."""

    name: ClassVar[str]
    state: ClassVar[tuple[str, ...]] = ()
    """Names of the buffers of the weights' shape that the rule keeps; all begin at `initial_state`."""
    columns: ClassVar[tuple[str, ...]]
    """Names of the scalars of pass 1."""
    apply_columns: ClassVar[tuple[str, ...]] = ("coefficient",)
    """Names of the scalars of pass 2."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        """Of one tensor with this formula; numbers of others come by columns."""
        self.kind: tuple[str, ...] = (self.name, *self.formula(settings))
        """What a compiled kernel is made for."""

    @staticmethod
    def formula(settings: Settings) -> tuple[str, ...]:
        """The choices that change the formula, not only its numbers."""
        return ()

    @property
    def norm_order(self) -> NormOrder:
        return "2"

    @abstractmethod
    def scalars(self, tensor: TensorSettings, applied: int, learning_rate: float) -> Sequence[float]:
        """Values of `columns` in a tensor's `applied`-th applied step (1, 2, ...); rounded once to fp32."""

    @abstractmethod
    def direct(
        self,
        weights: Tensor,  # (rows, 1024) fp32, not changed
        gradient: Tensor,  # (rows, 1024) fp32: the clipped mean; overwritten with the direction u
        state: Sequence[Tensor],  # (rows, 1024) fp32 each, updated in place
        columns: Sequence[Tensor],  # (rows, 1) fp32 each, named by `columns`
        root: Root,
    ) -> None:
        """Pass 1. Only operations with one correctly rounded result, so that no bit depends on the cut."""

    def normed(self, weights: Tensor, columns: Sequence[Tensor]) -> Tensor:
        """The weights whose norm the ratio is made of."""
        return weights

    def rate_factor(self, tensor: TensorSettings, applied: int) -> float:
        """Factor of the learning rate that depends on the bias counter alone."""
        return 1.0

    def ratios(self, slices: SliceSettings, norms: Norms) -> Ratios:
        """Trust ratios of slices. Here: 1 for each."""
        count = len(slices.of_slice)
        return Ratios(np.ones(count), np.zeros(count, np.int8))

    def coefficients(
        self, tensor: TensorSettings, applied: int, learning_rate: float, ratios: Array
    ) -> Sequence[Array | float]:
        """Values of `apply_columns` for slices of equal settings and bias counter."""
        return (learning_rate * self.rate_factor(tensor, applied) * ratios,)

    def apply(
        self,
        weights: Tensor,  # (rows, 1024) fp32, updated in place
        directions: Tensor,  # (rows, 1024) fp32: u
        state: Sequence[Tensor],  # (rows, 1024) fp32 each
        columns: Sequence[Tensor],  # (rows, 1) fp32 each, named by `apply_columns`
    ) -> None:
        """Pass 2: w <- w - coefficient * u."""
        weights.sub_(directions * columns[0])

    def initial_state(self, tensor: TensorSettings) -> float:
        """What every element of the state begins with."""
        return 0.0


def power(base: float, exponent: int) -> float:
    """base ** exponent in fp64.

    By repeated squaring, not libm's pow, whose last bit differs between C libraries: replay on another
    machine must give the same bits.
    """
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def layerwise_ratios(
    numerator: Array,  # (slices,) phi's argument, ||w||
    denominator: Array,  # (slices,)
    slices: SliceSettings,  # all Layerwise
    is_zero: npt.NDArray[np.bool_],  # (slices,) whether the denominator's norm is 0
    factor: Array,  # (slices,) multiplies phi(||w||)
) -> Ratios:
    """factor * phi(numerator) / denominator in bounds; `zero_norm_ratio` where phi or the denominator is 0.

    The zero test comes after phi, as in MXNet and torch_optimizer: low > 0 then moves zero tensors too.
    A quotient that is not finite, of norms beyond fp64 or far apart, gives ratio 1.
    """
    phi = slices.spread(lambda tensor: _bounds(_layerwise(tensor).phi))
    bounds = slices.spread(lambda tensor: _bounds(_layerwise(tensor).ratio_bounds))
    fallback = slices.spread(lambda tensor: _layerwise(tensor).zero_norm_ratio)
    adapts = slices.spread(lambda tensor: tensor.adapts)
    clamped = np.clip(numerator, phi[:, 0], phi[:, 1])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = factor * clamped / denominator
    zero = is_zero | (clamped == 0)
    finite = np.isfinite(numerator) & np.isfinite(quotient)
    bounded = np.clip(quotient, bounds[:, 0], bounds[:, 1])
    clamp = np.where(clamped != numerator, PHI_CLAMP, NO_CLAMP)
    clamp = np.where(bounded != quotient, RATIO_CLAMP, clamp)
    value = np.where(zero, fallback, np.where(finite, bounded, 1.0))
    acts = adapts & ~zero & finite
    return Ratios(np.where(adapts, value, 1.0), np.where(acts, clamp, NO_CLAMP).astype(np.int8))


def _layerwise(tensor: TensorSettings) -> Layerwise:
    assert isinstance(tensor.settings, Layerwise)
    return tensor.settings


def _bounds(bounds: tuple[float, float] | None) -> tuple[float, float]:
    return (-np.inf, np.inf) if bounds is None else bounds
