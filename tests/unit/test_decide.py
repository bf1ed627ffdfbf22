"""sheepfold_server.core.decide"""

from __future__ import annotations

import math

import pytest
from tests.unit.desk import job_of

import sheepfold_wire.messages as m
from sheepfold_server.core.decide import (
    Decision,
    clip_scale,
    decide,
    squares_in_order,
    totals_in_order,
    union_of_presence,
)


def prepared(*squares: float, is_finite: bool = True, max_abs: float = 1.0) -> m.Prepared:
    return m.Prepared("j", 0, "map", is_finite, max_abs, squares)


def decision(*reports: m.Prepared, clip: float | None = None) -> Decision:
    job = job_of(optimizer={"lr": {"peak": 0.1}, "clip_norm": clip})
    return decide(0, job, reports, [value for report in reports for value in report.sum_of_squares])


def test_finite_sum_is_applied_with_the_rate_of_its_step() -> None:
    found = decision(prepared(9.0), prepared(16.0))
    assert found == Decision(False, "", 0.1, 1.0, 5.0)


def test_norm_above_the_clip_is_scaled_down_to_it() -> None:
    assert decision(prepared(9.0, 16.0), clip=2.5).clip_scale == 0.5


def test_norm_below_the_clip_is_left_alone() -> None:
    assert decision(prepared(9.0, 16.0), clip=50.0).clip_scale == 1.0


def test_one_shard_that_is_not_finite_skips_the_step() -> None:
    found = decision(prepared(1.0), prepared(1.0, is_finite=False))
    assert (found.is_skip, found.reason) == (True, "the summed gradient is not finite")


@pytest.mark.parametrize("square", [math.inf, math.nan])
def test_norm_that_overflows_skips_the_step(square: float) -> None:
    assert decision(prepared(square)).is_skip


def test_element_whose_square_leaves_fp32_skips_the_step() -> None:
    assert decision(prepared(1.0, max_abs=2e15)).is_skip
    assert not decision(prepared(1.0, max_abs=1e15)).is_skip


def test_element_is_judged_after_clipping() -> None:
    assert not decision(prepared(4e30, max_abs=2e15), clip=1.0).is_skip


def test_blocks_are_put_at_their_global_places() -> None:
    assert squares_in_order({1: (10.0, 11.0), 0: (20.0,)}, [(1,), (0, 2)]) == [10.0, 20.0, 11.0]


def test_norm_does_not_depend_on_how_blocks_lie_on_shards() -> None:
    """0.1, 0.2, 0.3 added in another order give other bits."""
    values = [0.1, 0.2, 0.3, 1e16, 1.0]
    one = squares_in_order({0: values}, [tuple(range(5))])
    two = squares_in_order({1: values[::2], 0: values[1::2]}, [(1, 3), (0, 2, 4)])
    assert decide(0, job_of(), [], one) == decide(0, job_of(), [], two)


def test_totals_are_grouped_by_slice_and_added_by_block() -> None:
    late = m.Norms("j", 0, (m.BlockNorms(2, 1.0, 1.0), m.BlockNorms(0, 1e16, 0.0)))
    early = m.Norms("j", 0, (m.BlockNorms(1, 1.0, 0.5), m.BlockNorms(3, 7.0, 8.0)))
    assert totals_in_order([late, early], [0, 0, 0, 4], [1e16, 1.0, 1.0, 9.0], frozenset()) == (
        m.SliceTotals(0, (1e16 + 1.0) + 1.0, 1.5, (1e16 + 1.0) + 1.0),
        m.SliceTotals(4, 7.0, 8.0, 9.0),
    )


def test_totals_of_order_inf_are_the_largest_of_their_blocks() -> None:
    norms = m.Norms("j", 0, (m.BlockNorms(0, 3.0, 1.0), m.BlockNorms(1, 2.0, 5.0)))
    assert totals_in_order([norms], [0, 0], [1.0, 2.0], frozenset({0})) == (m.SliceTotals(0, 3.0, 5.0, 3.0),)


@pytest.mark.parametrize(
    ("form", "norm", "scale"),
    [
        ("apex", 4.0, 0.5),
        ("apex", 1.0, 1.0),
        ("torch", 4.0, 2.0 / (4.0 + 1e-6)),
        ("torch", 2.0 - 1e-7, 2.0 / (2.0 - 1e-7 + 1e-6)),
        ("deepspeed", 4.0, 1.0 / ((4.0 + 1e-6) / 2.0)),
        ("deepspeed", 1.0, 1.0),
    ],
)
def test_each_form_of_clipping_is_its_formula(form: str, norm: float, scale: float) -> None:
    assert clip_scale(norm, 2.0, form) == scale
    assert clip_scale(norm, None, form) == 1.0


def test_the_mean_is_left_alone_where_each_slot_was_clipped() -> None:
    job = job_of(optimizer={"lr": {"peak": 0.1}, "clip_norm": 2.5, "clip_place": "slot"})
    assert decide(0, job, [prepared(25.0)], [25.0]).clip_scale == 1.0


def test_presence_is_a_union_bit_by_bit() -> None:
    assert union_of_presence([b"\x01\x80", b"\x02", b""]) == b"\x03\x80"


def test_presence_of_nothing_is_empty() -> None:
    assert union_of_presence([]) == b""
