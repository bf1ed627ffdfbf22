"""sheepfold_server.optim.norms"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sheepfold_server.optim.layout import ShardLayout
from sheepfold_server.optim.norms import RowPartials, add_halves, block_sums_of_squares, row_partials
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
    """A reference in plain Python floats: how rows make a block is a contract. Rows are torch's to add."""
    rows = random_rows(2)
    mine = block_sums_of_squares(rows, LAYOUT, 64).tolist()
    squares = row_partials(rows).tolist()
    for block in (0, 1, 2):
        named = LAYOUT.block_rows[block].tolist()
        row_sums = [squares[r] if r < LAYOUT.rows else 0.0 for r in named]
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


def test_a_row_has_the_same_bits_in_any_company() -> None:
    """Cuts may fall on any row: a sum that knew its neighbours would give every shard its own bits."""
    rows = random_rows(5)[:200]
    for order in ("1", "2", "inf"):
        whole = row_partials(rows, order)
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            for count in (1, 2, 3, 64, 100, 199):
                cut = torch.cat([row_partials(part, order) for part in rows.split(count)])
                assert cut.numpy().tobytes() == whole.numpy().tobytes(), f"{order}, {threads}, {count}"


def test_partials_of_each_order_are_what_they_say() -> None:
    rows = random_rows(6)[:4]
    wide = rows.double()
    assert row_partials(rows, "2").tolist() == pytest.approx((wide**2).sum(1).tolist(), rel=1e-14)
    assert row_partials(rows, "1").tolist() == pytest.approx(wide.abs().sum(1).tolist(), rel=1e-14)
    assert row_partials(rows, "inf").tolist() == wide.abs().amax(1).tolist()


def test_a_block_has_the_largest_of_its_rows() -> None:
    partials = RowPartials(1, LAYOUT, torch.device("cpu"))
    rows = row_partials(random_rows(7), "inf")
    partials.rows(0, 0, LAYOUT.rows).copy_(rows)
    held = [[r for r in named if r < LAYOUT.rows] for named in LAYOUT.block_rows.tolist()]
    assert partials.block_maxima()[0].tolist() == [rows[named].max().item() for named in held]
