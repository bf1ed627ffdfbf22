"""sheepfold_server.optim.layout"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sheepfold_server.optim.layout import ShardLayout, default_tile_rows, tiles
from sheepfold_wire.manifest import BLOCK_ELEMENTS, Manifest, TensorSpec
from sheepfold_wire.plan import Plan

MANIFEST = Manifest(
    (
        TensorSpec("a", (1500,), "float32", "parameter"),
        TensorSpec("b", (2, 70_000), "float32", "parameter", (1, 1)),
        TensorSpec("c", (1024,), "float32", "parameter"),
    )
)
LAYOUT = ShardLayout(Plan.of(MANIFEST, 1), 0)


@pytest.mark.parametrize("tile_rows", [64, 128, 256])
def test_tiles_cover_all_rows_once_in_whole_blocks(tile_rows: int) -> None:
    found = list(tiles(448, tile_rows))
    assert [first for first, _ in found] == list(range(0, 448, tile_rows))
    assert sum(count for _, count in found) == 448
    assert all(count % 64 == 0 for _, count in found)


def test_no_rows_have_no_tiles() -> None:
    assert list(tiles(0, 64)) == []


def test_a_device_is_given_larger_tiles_than_a_cpu() -> None:
    assert default_tile_rows(torch.device("cuda")) > default_tile_rows(torch.device("cpu"))


def test_blocks_begin_where_their_fragment_does() -> None:
    assert LAYOUT.blocks.tolist() == [0, 1, 2, 3, 4, 5]
    assert LAYOUT.block_first_rows.tolist() == [0, 2, 66, 71, 135, 140]
    assert LAYOUT.block_elements.tolist() == [1500, BLOCK_ELEMENTS, 4464, BLOCK_ELEMENTS, 4464, 1024]


def test_a_short_block_names_the_zero_row_for_rows_it_lacks() -> None:
    zero_row = LAYOUT.rows
    assert LAYOUT.block_rows[0].tolist() == [0, 1] + 62 * [zero_row]
    assert LAYOUT.block_rows[1].tolist() == list(range(2, 66))
    used = LAYOUT.block_rows[LAYOUT.block_rows != zero_row]
    assert used.tolist() == list(range(LAYOUT.plan.used_rows(0)))


def test_rows_know_their_slice_and_tensor_and_the_padding_has_neither() -> None:
    assert np.bincount(LAYOUT.slice_of_row).tolist() == [2, 69, 69, 1, LAYOUT.rows - 141]
    assert np.bincount(LAYOUT.tensor_of_row).tolist() == [2, 138, 1, LAYOUT.rows - 141]


def test_block_spans_find_each_slices_blocks() -> None:
    starts, counts = LAYOUT.block_spans
    assert list(zip(starts.tolist(), counts.tolist(), strict=True)) == [(0, 1), (1, 2), (3, 2), (5, 1)]


def test_split_places_are_those_of_slices_on_other_shards_too() -> None:
    assert LAYOUT.split_places == tuple(
        place for place, index in enumerate(LAYOUT.slices) if index in LAYOUT.plan.split_slices
    )


def test_partial_rows_are_ends_of_slices_and_the_unused_rows() -> None:
    rows, held = LAYOUT.partial_rows
    assert rows.tolist() == [1, 70, 139, *range(141, LAYOUT.rows)]
    assert held.tolist() == [476, 368, 368, *[0] * (LAYOUT.rows - 141)]


def test_a_shard_that_owns_nothing_has_empty_arrays() -> None:
    layout = ShardLayout(Plan.of(Manifest(()), 2), 1)
    assert layout.block_rows.shape == (0, 64)
    assert layout.slice_of_row.size == layout.blocks.size == layout.rows == 0
