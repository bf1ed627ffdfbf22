"""Our float64 reference against public implementations, 100 steps each.

Tolerance: both sides are float64, so only the order of operations differs. An element's error is at most
some 100 steps x 10 roundings of 2**-53, relative to the largest weight: 1e-13 leaves a factor of ten over
what is seen (3e-15 mostly). A wrong formula is off by 1e-3 and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.oracle.family_float64 import Slice
from tests.oracle.public import Run, Tensors, optax_run, package, timm_optimizer, torch_run

TOLERANCE = 1e-13
STEPS = 100
RATE = 0.02
SHAPES: list[tuple[int, ...]] = [(), (1,), (7,), (5, 3), (2, 3, 4)]
DECAYED = [False, False, False, True, True]
"""Vectors and scalars stand for biases: not decayed where a case has groups."""


def tensors(seed: int, has_zero: bool) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = [np.array(rng.normal(scale=0.5, size=shape)) for shape in SHAPES]
    if has_zero:
        found[2][:] = 0
    return found


def gradients(seed: int) -> list[Tensors]:
    """Sign flips, zeros, subnormals, single steps at 1e15 and at 1e-20."""
    rng = np.random.default_rng(seed + 1000)
    steps: list[Tensors] = []
    for t in range(STEPS):
        scale = {40: 1e15, 41: 1e-20}.get(t, 1.0)
        step = [np.array(scale * (-1) ** t * (0.3 + rng.normal(size=shape))) for shape in SHAPES]
        for g in step:
            g[rng.random(g.shape) < 0.1] = 0.0
            g[rng.random(g.shape) < 0.05] = 5e-324 * 1000
        steps.append(step)
    return steps


def reference(
    rule: str,
    start: Tensors,
    steps: list[Tensors],
    groups: dict[str, Any] | None,
    clip: float | None,
    **settings: Any,
) -> list[np.ndarray]:
    """`groups`: settings of the tensors that are not DECAYED; `clip`: the global norm, form of apex."""
    slices = []
    for x, decayed in zip(start, DECAYED, strict=True):
        given = settings if decayed or groups is None else {**settings, **groups}
        adapts = given.get("adapts", True)
        own = {key: value for key, value in given.items() if key != "adapts"}
        slices.append(Slice(x.copy(), rule, own, adapts))
    for step in steps:
        total = np.sqrt(sum(float((g * g).sum()) for g in step))
        scale = 1.0 if clip is None else 1.0 / max(1.0, total / clip)
        for one, g in zip(slices, step, strict=True):
            one.step(scale * g, RATE)
    return [one.weights for one in slices]


def timm_lamb(**given: Any) -> Run:
    return torch_run(lambda ps, lr: timm_optimizer("lamb", "Lamb")(ps, lr=lr, **given))


def timm_groups(**given: Any) -> Run:
    """Two groups: vectors without decay."""

    def make(ps: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
        free = [p for p, decayed in zip(ps, DECAYED, strict=True) if not decayed]
        rest = [p for p, decayed in zip(ps, DECAYED, strict=True) if decayed]
        groups = [{"params": free, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.01}]
        found: torch.optim.Optimizer = timm_optimizer("lamb", "Lamb")(groups, lr=lr, **given)
        return found

    return torch_run(make)


def torch_optimizer_lamb(**given: Any) -> Run:
    return torch_run(lambda ps, lr: package("torch_optimizer").Lamb(ps, lr=lr, **given))


def optax_masked(optax: Any, lr: float) -> Any:
    """Decay and adaptation for some tensors only."""
    return optax.chain(
        optax.scale_by_adam(0.9, 0.999, 1e-6),
        optax.add_decayed_weights(0.01, mask=DECAYED),
        optax.masked(optax.scale_by_trust_ratio(), DECAYED),
        optax.scale_by_learning_rate(lr),
    )


def optax_nlamb(optax: Any, lr: float) -> Any:
    return optax.chain(
        optax.scale_by_adam(0.975, 0.999, 1e-8, nesterov=True),
        optax.add_decayed_weights(0.01),
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(lr),
    )


def optax_clipped(optax: Any, lr: float) -> Any:
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.lamb(lr, 0.9, 0.999, eps=1e-6, weight_decay=0.01)
    )


PLAIN: dict[str, Any] = {"max_grad_norm": None, "always_adapt": True, "eps": 1e-6, "weight_decay": 0.01}
CASES: dict[str, tuple[Run, str, dict[str, Any]]] = {
    "paper-v5, optax": (
        optax_run(lambda o, lr: o.lamb(lr, 0.9, 0.999, eps=1e-6, weight_decay=0.01)),
        "lamb",
        {},
    ),
    "paper-v5, timm": (timm_lamb(**PLAIN), "lamb", {}),
    "decay and adapt lists, optax": (
        optax_run(optax_masked),
        "lamb",
        {"groups": {"weight_decay": 0.0, "adapts": False}},
    ),
    "nvlamb, timm": (timm_lamb(**{**PLAIN, "max_grad_norm": 1.0}), "lamb", {"clip": 1.0}),
    "nvlamb, optax": (optax_run(optax_clipped), "lamb", {"clip": 1.0}),
    "apex-default, timm": (
        timm_groups(max_grad_norm=1.0, always_adapt=False, eps=1e-6),
        "lamb",
        {"clip": 1.0, "groups": {"weight_decay": 0.0, "adapts": False}},
    ),
    "albert with one slot, timm": (
        timm_groups(max_grad_norm=1.0, always_adapt=False, eps=1e-6, bias_correction=False),
        "lamb",
        {"clip": 1.0, "debias": "none", "groups": {"weight_decay": 0.0, "adapts": False}},
    ),
    "no debias, timm": (timm_lamb(**PLAIN, bias_correction=False), "lamb", {"debias": "none"}),
    "no debias, torch_optimizer": (
        torch_optimizer_lamb(debias=False, clamp_value=1e12, eps=1e-6, weight_decay=0.01),
        "lamb",
        {"debias": "none"},
    ),
    "deepspeed, bounds not reached, torch_optimizer": (
        torch_optimizer_lamb(debias=True, clamp_value=1e12, eps=1e-8, weight_decay=0.01),
        "lamb",
        {"debias": "step_size", "eps": 1e-8},
    ),
    "beta3 = 1, timm": (timm_lamb(**PLAIN, grad_averaging=False), "lamb", {"beta3": "1"}),
    "phi from above, torch_optimizer": (
        torch_optimizer_lamb(debias=False, clamp_value=0.7, eps=1e-6, weight_decay=0.01),
        "lamb",
        {"debias": "none", "phi": (0.0, 0.7)},
    ),
    "ratio at most 1, timm": (timm_lamb(**PLAIN, trust_clip=True), "lamb", {"ratio_bounds": (0.0, 1.0)}),
    "decoupled decay, timm": (
        timm_lamb(**PLAIN, decoupled_decay=True),
        "lamb",
        {"decay_form": "decoupled"},
    ),
    "N-LAMB with constant beta, optax": (
        optax_run(optax_nlamb),
        "lamb",
        {"beta1": 0.975, "eps": 1e-8, "nesterov": "constant"},
    ),
    "LARS with lr inside, optax": (
        optax_run(lambda o, lr: o.lars(lr, weight_decay=0.01, trust_coefficient=0.02, eps=0.0, momentum=0.9)),
        "lars",
        {"form": "lr_inside", "denominator": "gradient_plus_decay", "eps": 0.0, "trust_coefficient": 0.02}
        | {"weight_decay": 0.01},
    ),
    "LARS with lr outside, timm": (
        torch_run(
            lambda ps, lr: timm_optimizer("lars", "Lars")(
                ps, lr=lr, momentum=0.9, weight_decay=0.01, trust_coeff=0.02, eps=1e-8, always_adapt=True
            )
        ),
        "lars",
        {"trust_coefficient": 0.02, "weight_decay": 0.01},
    ),
    "AdamW, torch": (torch_run(lambda ps, lr: torch.optim.AdamW(ps, lr=lr)), "adamw", {}),
    "Adam, torch": (
        torch_run(lambda ps, lr: torch.optim.Adam(ps, lr=lr, weight_decay=0.03)),
        "adam",
        {"weight_decay": 0.03},
    ),
    "AdaGrad, torch": (
        torch_run(
            lambda ps, lr: torch.optim.Adagrad(
                ps, lr=lr, lr_decay=0.1, weight_decay=0.03, initial_accumulator_value=0.2
            )
        ),
        "adagrad",
        {"lr_decay": 0.1, "weight_decay": 0.03, "initial_accumulator": 0.2},
    ),
    "SGD with momentum and dampening, torch": (
        torch_run(lambda ps, lr: torch.optim.SGD(ps, lr=lr, momentum=0.8, dampening=0.3, weight_decay=0.03)),
        "sgd",
        {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.03},
    ),
    "SGD with Nesterov momentum, torch": (
        torch_run(lambda ps, lr: torch.optim.SGD(ps, lr=lr, momentum=0.8, nesterov=True)),
        "sgd",
        {"momentum": 0.8, "nesterov": True},
    ),
}
NO_ZERO_TENSOR = {"ratio at most 1, timm"}


@pytest.mark.parametrize("case", CASES)
def test_the_reference_equals_the_public_implementation(case: str) -> None:
    run, rule, settings = CASES[case]
    settings = {"groups": None, "clip": None, **settings}
    start, steps = tensors(5, case not in NO_ZERO_TENSOR), gradients(5)
    theirs = run(start, steps, RATE)
    mine = reference(rule, start, steps, **settings)
    for shape, a, b in zip(SHAPES, mine, theirs, strict=True):
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-300)
        assert error <= TOLERANCE, f"{case}, shape {shape}: off by {error:.2e} of the largest weight"


def test_the_scheduled_form_is_the_mean_of_torchs_nadam() -> None:
    """torch has Dozat's schedule without trust ratio and factor beta2; it keeps the product in fp32."""
    start, steps = tensors(6, False), gradients(6)
    theirs = torch_run(lambda ps, lr: torch.optim.NAdam(ps, lr=lr, momentum_decay=4e-3))(start, steps, RATE)
    mine = reference(
        "lamb", start, steps, None, None, nesterov="scheduled", weight_decay=0.0, eps=1e-8, adapts=False
    )
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)
