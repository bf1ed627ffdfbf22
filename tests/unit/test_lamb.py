"""sheepfold_server.optim.lamb: the kernels, scalars and settings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sheepfold_server.optim.lamb import (
    Corrections,
    LambConfig,
    Moments,
    bias_correction,
    correction_table,
    lamb_apply,
    lamb_directions,
    rounded_root,
    step_coefficient,
    trust_ratio,
)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta1": 1.0}, "optimizer.beta1=1.0: give 0 <= x < 1"),
        ({"beta2": -0.1}, "optimizer.beta2=-0.1"),
        ({"beta1": math.nan}, "optimizer.beta1=nan"),
        ({"epsilon": 0.0}, "optimizer.epsilon=0.0: give a positive fp32 number"),
        ({"epsilon": 1e-60}, "optimizer.epsilon=1e-60"),
        ({"epsilon": math.inf}, "optimizer.epsilon=inf"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay=-1.0"),
        ({"clip_norm": 0.0}, "optimizer.clip_norm=0.0"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_field_value_and_remedy(
    settings: dict[str, float], words: str
) -> None:
    with pytest.raises(ValueError, match="^" + words.replace("<", "[<]")):
        LambConfig(**settings)


def test_defaults_are_the_preset_paper_v5() -> None:
    assert LambConfig() == LambConfig(0.9, 0.999, 1e-6, 0.01, None)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999])
def test_bias_correction_is_one_minus_the_power(beta: float) -> None:
    for n in (1, 2, 3, 10, 1000, 1_000_000):
        assert bias_correction(beta, n) == pytest.approx(1 - beta**n, rel=1e-12)


def test_corrections_are_rounded_once_and_are_one_for_a_tensor_never_updated() -> None:
    table = correction_table(LambConfig(), [0, 3])
    assert table.dtype == np.float32
    assert table[:, 0].tolist() == [1.0, 1.0]
    assert table[:, 1].tolist() == [np.float32(bias_correction(b, 3)) for b in (0.9, 0.999)]


def test_square_roots_are_correctly_rounded() -> None:
    """torch.sqrt on fp32 is not (MKL): one result in six was off by a bit where this was written."""
    bits = np.random.default_rng(1).integers(0, 0x7F80_0000, 64 * 1024 * 8, dtype=np.int32)
    bits[:4] = [0, 1, 0x7F80_0000, 0x7F7F_FFFF]
    values = bits.view(np.float32)
    mine = torch.from_numpy(values.copy()).view(-1, 1024)
    rounded_root(mine, torch.empty(mine.shape, dtype=torch.float64))
    np.testing.assert_array_equal(mine.numpy().reshape(-1), np.sqrt(values))


def test_one_pass_is_the_formula_in_single_rounded_operations() -> None:
    """The same operations in numpy fp32, where each is correctly rounded: the order of them is a contract."""
    rng = np.random.default_rng(2)
    w, g, m = (rng.normal(size=(64, 1024)).astype(np.float32) for _ in range(3))
    v = (rng.normal(size=(64, 1024)) ** 2).astype(np.float32)
    table = correction_table(LambConfig(), [5])
    c1, c2 = (torch.full((64, 1), float(c)) for c in table[:, 0])
    torch_w, u = torch.from_numpy(w.copy()), torch.from_numpy(g.copy())
    moments = Moments(torch.from_numpy(m.copy()), torch.from_numpy(v.copy()))
    scratch, wide = torch.empty((64, 1024)), torch.empty((64, 1024), dtype=torch.float64)
    lamb_directions(torch_w, u, moments, Corrections(c1, c2), LambConfig(), scratch, wide)
    b1, b2, r1, r2 = (np.float32(x) for x in (0.9, 0.999, 1 - 0.9, 1 - 0.999))
    m = m * b1 + g * r1
    v = v * b2 + g * r2 * g
    expected = m / table[0, 0] / (np.sqrt(v / table[1, 0]) + np.float32(1e-6)) + w * np.float32(0.01)
    assert moments.first.numpy().tobytes() == m.tobytes()
    assert moments.second.numpy().tobytes() == v.tobytes()
    assert u.numpy().tobytes() == expected.tobytes()
    lamb_apply(torch_w, u, torch.full((64, 1), 0.3))
    assert torch_w.numpy().tobytes() == (w - expected * np.float32(0.3)).tobytes()


def test_a_zero_coefficient_on_a_zero_direction_leaves_every_bit() -> None:
    w = torch.tensor([[0.0, -0.0, 1e-45, -1e-45, 3e38, -1.5]])
    before = w.clone()
    lamb_apply(w, torch.zeros_like(w), torch.zeros((1, 1)))
    assert w.numpy().tobytes() == before.numpy().tobytes()


@pytest.mark.parametrize("norms", [(0.0, 1.0), (1.0, 0.0), (math.inf, 1.0), (1.0, math.nan), (0.0, 0.0)])
def test_the_ratio_is_one_where_a_norm_is_zero_or_not_finite(norms: tuple[float, float]) -> None:
    assert trust_ratio(*norms) == 1.0


def test_the_coefficient_is_rounded_once_from_fp64() -> None:
    assert step_coefficient(0.1, 1 / 3) == (float(np.float32(0.1 * (1 / 3))), 1 / 3)


def test_a_coefficient_beyond_fp32_falls_back_to_ratio_one() -> None:
    assert step_coefficient(1.0, 1e60) == (1.0, 1.0)
    assert step_coefficient(0.5, trust_ratio(1e30, 1e-3))[1] == 1e30 / 1e-3
