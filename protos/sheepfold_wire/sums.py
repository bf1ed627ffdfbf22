"""Addition in one fixed order, the same on every machine and Python."""

from __future__ import annotations

from collections.abc import Iterable


def add_in_order(values: Iterable[float]) -> float:
    """The fp64 sum of `values`, added plainly from left to right, rounded after each addition.

    Norms are sums of block sums, and every shard count must give the same bits. The builtin `sum`
    compensates rounding errors from Python 3.12 on and does not before; `math.fsum` and numpy's
    pairwise `sum` are other functions again. Which one is used is part of the numeric contract, so it
    is spelled out here. No values give 0.0.
    """
    total = 0.0
    for value in values:
        total += value
    return total
