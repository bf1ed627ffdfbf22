"""sheepfold_wire.sums"""

from __future__ import annotations

import math

from sheepfold_wire.sums import add_in_order


def test_each_addition_is_rounded_before_the_next() -> None:
    """A compensated sum (Python 3.12's builtin, fsum) would give 2.0 here."""
    values = [1.0, 1e100, 1.0, -1e100]
    assert add_in_order(values) == 0.0
    assert math.fsum(values) == 2.0


def test_no_values_add_up_to_zero() -> None:
    assert add_in_order([]) == 0.0


def test_infinities_and_nan_pass_through() -> None:
    assert add_in_order([1.0, math.inf]) == math.inf
    assert math.isnan(add_in_order([math.inf, -math.inf]))
