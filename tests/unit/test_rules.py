"""sheepfold_server.optim.rules: scalars, one pass in words, ratios."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.oracle.settings import optimizer_of

from sheepfold_server.optim.passes import eager_root
from sheepfold_server.optim.rules import RULES, rule_of
from sheepfold_server.optim.rules.adam import moment_scalars
from sheepfold_server.optim.rules.lamb import LambColumns, LambRule, look_ahead, scheduled
from sheepfold_server.optim.rules.rule import CLAMP_NAMES, Norms, SliceSettings, power
from sheepfold_wire import rules as wire
from sheepfold_wire.optimizer import TensorSettings, rule_settings


def tensor(adapts: bool = True, **settings: Any) -> TensorSettings:
    found = rule_settings(optimizer_of(**settings))
    return TensorSettings(found, found.weight_decay, adapts, 1.0)


def ratio(weight: float, update: float, gradient: float = 1.0, **settings: Any) -> tuple[float, str]:
    """(trust ratio, clamp) of one slice."""
    given = tensor(**settings)
    norms = Norms(*(np.array([value]) for value in (weight, update, gradient)))
    found = rule_of(given.settings).ratios(SliceSettings([given], np.array([0])), norms)
    return float(found.value[0]), CLAMP_NAMES[found.clamp[0]]


def test_every_rule_of_the_job_file_has_its_mathematics() -> None:
    assert RULES.keys() == wire.RULES.keys()


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999])
def test_powers_by_squaring_are_powers(beta: float) -> None:
    for n in (1, 2, 3, 10, 1000, 1_000_000):
        assert power(beta, n) == pytest.approx(beta**n, rel=1e-12)


def test_bias_corrections_are_reciprocals_of_one_minus_the_power() -> None:
    scalars = moment_scalars(0.9, 0.999, 3)
    assert scalars == (0.9, 1 - 0.9, 0.999, 1 - 0.999, 1 / (1 - power(0.9, 3)), 1 / (1 - power(0.999, 3)))


def test_the_eager_root_is_a_function_of_its_element_alone() -> None:
    """torch.sqrt on fp32 is not where it uses MKL: its tail may round otherwise than its vector path."""
    bits = np.random.default_rng(1).integers(0, 0x7F80_0000, 64 * 1024 * 8, dtype=np.int32)
    bits[:4] = [0, 1, 0x7F80_0000, 0x7F7F_FFFF]
    values = bits.view(np.float32)
    with np.errstate(divide="ignore"):
        expected = np.float32(1) / (np.float32(1) / np.sqrt(values))
    np.testing.assert_array_equal(eager_root(torch.from_numpy(values.copy())).numpy(), expected)
    cut = torch.from_numpy(values[5:1008].copy())
    np.testing.assert_array_equal(eager_root(cut).numpy(), expected[5:1008])
    exact = np.sqrt(values[4:].astype(np.float64))
    assert np.abs(expected[4:] / exact - 1).max() < 1.1 * 2**-23


def test_one_pass_is_the_formula_in_single_rounded_operations() -> None:
    """The same operations in numpy fp32, where each is correctly rounded: the order of them is a contract."""
    rng = np.random.default_rng(2)
    w, g, m = (rng.normal(size=(64, 1024)).astype(np.float32) for _ in range(3))
    v = (rng.normal(size=(64, 1024)) ** 2).astype(np.float32)
    given = tensor()
    rule = rule_of(given.settings)
    scalars = np.array(rule.scalars(given, 5, 0.1)).astype(np.float32)
    columns = [torch.full((64, 1), float(value)) for value in scalars]
    torch_w, u, first, second = (torch.from_numpy(a.copy()) for a in (w, g, m, v))
    rule.direct(torch_w, u, [first, second], columns, eager_root)
    c = LambColumns(*scalars)
    m = m * c.beta1 + g * c.gain1
    v = v * c.beta2 + g * c.gain2 * g
    root = np.float32(1) / (np.float32(1) / np.sqrt(v * c.debias2))
    expected = m * c.debias1 / (root + c.eps) + w * c.decay
    assert first.numpy().tobytes() == m.tobytes()
    assert second.numpy().tobytes() == v.tobytes()
    assert u.numpy().tobytes() == expected.tobytes()
    rule.apply(torch_w, u, [first, second], [torch.full((64, 1), 0.3), torch.ones((64, 1))])
    assert torch_w.numpy().tobytes() == (w - expected * np.float32(0.3)).tobytes()


def test_a_zero_coefficient_on_a_zero_direction_leaves_every_bit() -> None:
    w = torch.tensor([[0.0, -0.0, 1e-45, -1e-45, 3e38, -1.5]])
    before = w.clone()
    LambRule(tensor().settings).apply(w, torch.zeros_like(w), [], [torch.zeros((1, 1)), torch.ones((1, 1))])
    assert w.numpy().tobytes() == before.numpy().tobytes()


@pytest.mark.parametrize("norms", [(0.0, 1.0), (1.0, 0.0), (math.inf, 1.0), (1.0, math.nan), (0.0, 0.0)])
def test_the_ratio_is_one_where_a_norm_is_zero_or_not_finite(norms: tuple[float, float]) -> None:
    assert ratio(*norms) == (1.0, "")


@pytest.mark.parametrize(
    ("settings", "norms", "expected"),
    [
        ({}, (6.0, 2.0), (3.0, "")),
        ({"phi": [0.0, 4.0]}, (6.0, 2.0), (2.0, "phi")),
        ({"phi": [8.0, 9.0]}, (6.0, 2.0), (4.0, "phi")),
        ({"phi": [0.0, 6.0]}, (6.0, 2.0), (3.0, "")),
        ({"ratio_bounds": [0.01, 2.5]}, (6.0, 2.0), (2.5, "ratio")),
        ({"phi": [0.0, 4.0], "ratio_bounds": [0.0, 1.5]}, (6.0, 2.0), (1.5, "ratio")),
        ({"adapt": "none"}, (6.0, 2.0), (3.0, "")),
        ({"zero_norm_ratio": 0.0}, (0.0, 2.0), (0.0, "")),
    ],
)
def test_bounds_act_on_the_norm_or_on_the_quotient_and_say_so(
    settings: dict[str, Any], norms: tuple[float, float], expected: tuple[float, str]
) -> None:
    assert ratio(*norms, **settings) == expected


def test_a_slice_without_adaptation_has_ratio_one_and_no_clamp() -> None:
    assert ratio(6.0, 2.0, adapts=False, ratio_bounds=[0.0, 0.5]) == (1.0, "")


def test_the_zero_test_comes_after_phi_so_that_a_low_bound_moves_zero_tensors() -> None:
    """As MXNet and torch_optimizer do; nnabla freezes such a tensor."""
    assert ratio(0.0, 2.0, phi=[1.0, 5.0]) == (0.5, "phi")


def test_bounds_do_not_act_on_the_ratio_of_a_zero_norm() -> None:
    assert ratio(0.0, 2.0, ratio_bounds=[0.01, 0.5]) == (1.0, "")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"denominator": "sum_of_norms", "eps": 0.5}, 0.01 * 6 / (3 + 0.1 * 6 + 0.5)),
        ({"denominator": "gradient_plus_decay", "eps": 0.5}, 0.01 * 6 / (2 + 0.5)),
        ({"form": "paper"}, 6 / 2),
    ],
)
def test_lars_divides_by_what_its_form_names(settings: dict[str, Any], expected: float) -> None:
    given = {"rule": "lars", "trust_coefficient": 0.01, "weight_decay": 0.1, **settings}
    assert ratio(6.0, 2.0, 3.0, **given)[0] == pytest.approx(expected, rel=1e-15)


def test_debiasing_the_step_size_is_a_factor_of_the_rate_alone() -> None:
    given = tensor(debias="step_size")
    rule = rule_of(given.settings)
    assert rule.rate_factor(given, 3) == math.sqrt(1 - power(0.999, 3)) / (1 - power(0.9, 3))
    columns = dict(zip(rule.columns, rule.scalars(given, 3, 0.1), strict=True))
    assert (columns["debias1"], columns["debias2"]) == (1.0, 1.0)


def test_scheduled_nesterov_approaches_the_constant_form() -> None:
    """Dozat's schedule tends to beta; its products tend to 0 as the powers do."""
    constant, warm = (wire.Lamb(nesterov=kind) for kind in ("constant", "scheduled"))
    assert look_ahead(warm, 1)[0] != look_ahead(constant, 1)[0]
    assert look_ahead(warm, 200_000)[:2] == pytest.approx(look_ahead(constant, 200_000)[:2], rel=1e-12)
    assert scheduled(0.9, 250) == pytest.approx(0.9 * (1 - 0.5 * 0.96), rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_nn_lamb_looks_ahead_in_both_moments(beta: float) -> None:
    look1, now1, look2, now2 = look_ahead(
        wire.Lamb(beta1=beta, beta2=beta, nesterov="constant", nesterov_second=True), 2
    )
    assert (look1, now1) == (look2, now2) == (beta / (1 - beta**3), (1 - beta) / (1 - beta**2))


KINDS: list[tuple[dict[str, Any], Callable[[tuple[str, ...]], bool]]] = [
    ({}, lambda kind: kind == ("lamb", "in_update", "plain", "outside", "l2")),
    ({"beta1": 0.5, "eps": 1e-3}, lambda kind: kind == ("lamb", "in_update", "plain", "outside", "l2")),
    ({"norm_ord": "inf"}, lambda kind: kind[-1] == "linf"),
    ({"rule": "adamw"}, lambda kind: kind == ("adam", "adamw", "outside")),
]


@pytest.mark.parametrize(("settings", "holds"), KINDS)
def test_numbers_share_a_kernel_and_formulas_do_not(
    settings: dict[str, Any], holds: Callable[[tuple[str, ...]], bool]
) -> None:
    assert holds(rule_of(tensor(**settings).settings).kind)
