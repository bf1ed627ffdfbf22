"""The optimizers in float64 NumPy, from the papers' formulas: one function per rule, one slice at a time.

It knows nothing of rows, blocks, shards or sheepfold's code. `test_reference_against_public.py` holds it
against implementations that nobody here wrote; our kernels are held against it. Settings are plain keyword
arguments under the names of the job file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
State = dict[str, Array]


@dataclass
class Slice:
    """Weights and state of one slice; `n` counts its applied steps."""

    weights: Array
    rule: str = "lamb"
    settings: dict[str, Any] = field(default_factory=dict)
    adapts: bool = True
    n: int = 0
    state: State = field(default_factory=dict)
    weight_norm: float = 0.0
    update_norm: float = 0.0
    ratio: float = 1.0

    def step(self, gradient: npt.ArrayLike, lr: float) -> None:
        """One applied step; `gradient` is the clipped mean."""
        self.n += 1
        RULES[self.rule](self, np.asarray(gradient, np.float64), lr, **self.settings)

    def get(self, name: str, initial: float = 0.0) -> Array:
        """A buffer of the state."""
        if name not in self.state:
            self.state[name] = np.full_like(self.weights, initial)
        return self.state[name]


def clip_scale(norm: float, clip_norm: float | None, form: str = "apex") -> float:
    """What the whole gradient is multiplied by."""
    if clip_norm is None:
        return 1.0
    if form == "torch":
        return min(1.0, clip_norm / (norm + 1e-6))
    return 1.0 / max(1.0, (norm + (1e-6 if form == "deepspeed" else 0.0)) / clip_norm)


def norm_of(values: Array, order: str = "2") -> float:
    """L1, L2 or the largest magnitude over all elements; scaled, so that squares do not vanish."""
    flat = np.abs(values.reshape(-1))
    largest = float(flat.max(initial=0.0))
    if order == "2":
        return largest * float(np.sqrt(((flat / largest) ** 2).sum())) if largest else 0.0
    return float(flat.sum()) if order == "1" else largest


def ratio_of(
    one: Slice,
    numerator: float,
    denominator: float,
    is_zero: bool,
    phi: tuple[float, float] | None,
    ratio_bounds: tuple[float, float] | None,
    zero_norm_ratio: float,
    factor: float = 1.0,
) -> float:
    """factor * phi(numerator) / denominator; the zero test after phi, the bounds only on a true quotient."""
    if not one.adapts:
        return 1.0
    top = numerator if phi is None else min(max(numerator, phi[0]), phi[1])
    if top == 0 or is_zero:
        return zero_norm_ratio
    ratio = factor * top / denominator
    return ratio if ratio_bounds is None else min(max(ratio, ratio_bounds[0]), ratio_bounds[1])


def denominator_of(square: Array, eps: float, eps_place: str) -> Array:
    return np.asarray(np.sqrt(square + eps) if eps_place == "inside" else np.sqrt(square) + eps)


def dozat(beta: float, i: int) -> float:
    """mu_i of Dozat's schedule."""
    return float(beta * (1 - 0.5 * 0.96 ** (i / 250)))


def look_ahead(mean: Array, new: Array, beta: float, n: int, is_scheduled: bool) -> Array:
    """mu_{n+1} mean / (1 - prod_{i<=n+1} mu_i) + (1 - mu_n) new / (1 - prod_{i<=n} mu_i)."""
    mu = [dozat(beta, i) if is_scheduled else beta for i in range(1, n + 2)]
    behind, ahead = np.prod(mu[:-1]), np.prod(mu)
    return np.asarray(mu[-1] * mean / (1 - ahead) + (1 - mu[-2]) * new / (1 - behind))


def lamb(
    one: Slice,
    g: Array,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    beta3: str = "1-beta1",
    eps: float = 1e-6,
    eps_place: str = "outside",
    debias: str = "moments",
    weight_decay: float = 0.01,
    decay_form: str = "in_update",
    phi: tuple[float, float] | None = None,
    ratio_bounds: tuple[float, float] | None = None,
    zero_norm_ratio: float = 1.0,
    norm_ord: str = "2",
    nesterov: str = "none",
    nesterov_second: bool = False,
    nadam_beta2: bool = False,
) -> None:
    """You et al. 2020, Algorithms 2 to 4."""
    x, n = one.weights, one.n
    if decay_form == "l2":
        g = g + weight_decay * x
    m = one.state["m"] = beta1 * one.get("m") + (1.0 if beta3 == "1" else 1 - beta1) * g
    v = one.state["v"] = beta2 * one.get("v") + (1 - beta2) * g * g
    m_hat, v_hat = m, v
    if nesterov != "none":
        m_hat = look_ahead(m, g, beta1, n, nesterov == "scheduled")
        v_hat = v / (1 - beta2**n) * (beta2 if nadam_beta2 else 1.0)
        if nesterov_second:
            v_hat = look_ahead(v, g * g, beta2, n, nesterov == "scheduled")
    elif debias == "moments":
        m_hat, v_hat = m / (1 - beta1**n), v / (1 - beta2**n)
    u = m_hat / denominator_of(v_hat, eps, eps_place)
    if decay_form == "in_update":
        u = u + weight_decay * x
    elif decay_form == "decoupled":
        x = (1 - lr * weight_decay) * x
    one.weight_norm, one.update_norm = norm_of(x, norm_ord), norm_of(u, norm_ord)
    one.ratio = ratio_of(
        one, one.weight_norm, one.update_norm, one.update_norm == 0, phi, ratio_bounds, zero_norm_ratio
    )
    size = np.sqrt(1 - beta2**n) / (1 - beta1**n) if debias == "step_size" else 1.0
    one.weights = x - lr * size * one.ratio * u


def adam(
    one: Slice,
    g: Array,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_place: str = "outside",
    weight_decay: float = 0.0,
    is_decoupled: bool = False,
) -> None:
    """Kingma and Ba 2015; decoupled: Loshchilov and Hutter 2019."""
    x = one.weights
    if not is_decoupled:
        g = g + weight_decay * x
    m = one.state["m"] = beta1 * one.get("m") + (1 - beta1) * g
    v = one.state["v"] = beta2 * one.get("v") + (1 - beta2) * g * g
    r = m / (1 - beta1**one.n) / denominator_of(v / (1 - beta2**one.n), eps, eps_place)
    one.weights = (1 - lr * weight_decay) * x - lr * r if is_decoupled else x - lr * r


def adamw(one: Slice, g: Array, lr: float, weight_decay: float = 0.01, **settings: Any) -> None:
    adam(one, g, lr, weight_decay=weight_decay, is_decoupled=True, **settings)


def adagrad(
    one: Slice,
    g: Array,
    lr: float,
    eps: float = 1e-10,
    eps_place: str = "outside",
    weight_decay: float = 0.0,
    lr_decay: float = 0.0,
    initial_accumulator: float = 0.0,
) -> None:
    """Duchi et al. 2011, as torch.optim.Adagrad."""
    g = g + weight_decay * one.weights
    s = one.state["s"] = one.get("s", initial_accumulator) + g * g
    one.weights = one.weights - lr / (1 + (one.n - 1) * lr_decay) * g / denominator_of(s, eps, eps_place)


def sgd(
    one: Slice,
    g: Array,
    lr: float,
    momentum: float = 0.9,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """torch.optim.SGD: the first gradient enters the buffer whole."""
    d = g + weight_decay * one.weights
    b = one.state["b"] = d if one.n == 1 else momentum * one.get("b") + (1 - dampening) * d
    one.weights = one.weights - lr * (d + momentum * b if nesterov else b)


def lars(
    one: Slice,
    g: Array,
    lr: float,
    form: str = "lr_outside",
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
    denominator: str = "sum_of_norms",
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    phi: tuple[float, float] | None = None,
    ratio_bounds: tuple[float, float] | None = None,
    zero_norm_ratio: float = 1.0,
) -> None:
    """The three forms of lamb.md: You et al. 2017 in two codings, and the LAMB paper's Algorithm 1."""
    x = one.weights
    d = g + weight_decay * x
    x_norm, g_norm, d_norm = norm_of(x), norm_of(g), norm_of(d)
    if form == "paper":
        m = one.state["b"] = momentum * one.get("b") + (1 - momentum) * d
        size = norm_of(m)
        one.ratio = ratio_of(one, x_norm, size, size == 0, phi, ratio_bounds, zero_norm_ratio)
        one.weights = x - lr * one.ratio * m
        return
    zero, size = (
        (g_norm, g_norm + weight_decay * x_norm) if denominator == "sum_of_norms" else (d_norm, d_norm)
    )
    one.ratio = ratio_of(
        one, x_norm, size + eps, zero == 0, phi, ratio_bounds, zero_norm_ratio, trust_coefficient
    )
    inside = lr if form == "lr_inside" else 1.0
    b = one.state["b"] = momentum * one.get("b") + inside * one.ratio * d
    one.weights = x - (b if form == "lr_inside" else lr * b)


RULES: dict[str, Callable[..., None]] = {
    "lamb": lamb,
    "adam": adam,
    "adamw": adamw,
    "adagrad": adagrad,
    "sgd": sgd,
    "lars": lars,
}
