"""sheepfold_server.optim.norms"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sheepfold_server.optim.layout import ShardLayout
from sheepfold_server.optim.norms import add_halves, block_sums_of_squares
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.plan import Plan

LAYOUT = ShardLayout(
    Plan.of(
        Manifest(tuple(TensorSpec(f"t{n}", (n,), "float32", "parameter") for n in (1, 70_000, 300_000))), 1
    ),
    0,
)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def random_rows(seed: int) -> torch.Tensor:
    return torch.randn((LAYOUT.rows, 1024), generator=torch.Generator().manual_seed(seed))


def tree(values: list[float]) -> float:
    """The order of addition in words: halves are added element by element until one is left."""
    while len(values) > 1:
        half = len(values) // 2
        values = [a + b for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]


def test_halves_are_added_in_the_documented_order() -> None:
    values = np.random.default_rng(1).normal(size=(3, 64)) * 10.0 ** np.arange(64)
    assert add_halves(torch.from_numpy(values.copy())).tolist() == [tree(row) for row in values.tolist()]


def test_block_sums_follow_the_tree_bit_for_bit() -> None:
    """A reference in plain Python floats, so that the order is a contract, not an accident of torch."""
    rows = random_rows(2)
    mine = block_sums_of_squares(rows, LAYOUT, 64).tolist()
    squares = (rows.double() ** 2).tolist()
    for block in (0, 1, 2):
        named = LAYOUT.block_rows[block].tolist()
        row_sums = [tree(squares[r]) if r < LAYOUT.rows else 0.0 for r in named]
        assert mine[block] == tree(row_sums), f"block {block}"


def test_bits_do_not_depend_on_tile_rows_or_threads() -> None:
    rows = random_rows(3)
    found = set()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        for tile_rows in (64, 128, 256, 1024):
            found.add(block_sums_of_squares(rows, LAYOUT, tile_rows).numpy().tobytes())
    assert len(found) == 1


def test_squares_of_extreme_weights_neither_overflow_nor_vanish() -> None:
    for size in (1e30, 3e38, 1e-40):
        rows = torch.full((LAYOUT.rows, 1024), size)
        expected = math.fsum([float(np.float32(size)) ** 2] * 65_536)
        assert float(block_sums_of_squares(rows, LAYOUT, 256)[1]) == pytest.approx(expected, rel=1e-12)


def test_a_nan_reaches_only_its_own_block() -> None:
    rows = random_rows(4)
    rows[70, 5] = math.nan
    finite = torch.isfinite(block_sums_of_squares(rows, LAYOUT, 64))
    assert finite.tolist() == [70 not in named for named in LAYOUT.block_rows.tolist()]
