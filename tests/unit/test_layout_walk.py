"""sheepfold.layout: every element has exactly one place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sheepfold.layout import PartLayout, part_layouts, presence_bitmap
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import ShapeMismatch
from sheepfold_wire.manifest import BLOCK_ELEMENTS, ROW_ELEMENTS, Manifest, TensorSpec
from sheepfold_wire.plan import Plan

SHAPES = st.one_of(
    st.just(()),
    st.tuples(st.sampled_from([0, 1, 7, 1023, 1024, 1025, BLOCK_ELEMENTS, 2 * BLOCK_ELEMENTS + 3])),
    st.tuples(st.integers(1, 5), st.integers(0, 700)),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    specs = []
    for index in range(draw(st.integers(1, 6))):
        shape = draw(SHAPES)
        kind = draw(st.sampled_from(["parameter", "parameter", "float statistic", "integer statistic"]))
        if kind == "parameter":
            slices = (1, shape[0] - 1) if len(shape) > 1 and shape[0] > 1 and draw(st.booleans()) else ()
            specs.append(TensorSpec(f"t{index}", shape, "float32", "parameter", slices))
        else:
            dtype = "float32" if kind == "float statistic" else "int64"
            specs.append(TensorSpec(f"t{index}", shape, dtype, "statistic"))
    cut = draw(st.sampled_from([0, 4096, 1 << 30]))
    return Plan.of(Manifest(tuple(specs)), draw(st.integers(1, 4)), cut)


@settings(max_examples=60, deadline=None)
@given(plans())
def test_every_element_of_every_tensor_is_moved_exactly_once(plan: Plan) -> None:
    counts = [np.zeros(tensor.elements, int) for tensor in plan.manifest.tensors]
    for layout in part_layouts(plan):
        for move in layout.parameters + layout.floats + layout.integers:
            counts[move.tensor][move.first : move.first + move.count] += 1
    for tensor, count in zip(plan.manifest.tensors, counts, strict=True):
        assert (count == 1).all(), tensor


@settings(max_examples=60, deadline=None)
@given(plans())
def test_no_two_moves_write_the_same_place_and_all_stay_within_their_stretch(plan: Plan) -> None:
    for layout in part_layouts(plan):
        view = layout.stretches(layout.new_part(Codec.FP32), Codec.FP32)
        for moves, stretch in (
            (layout.parameters, view.parameters),
            (layout.floats, view.floats),
            (layout.integers, view.integers),
        ):
            written = np.zeros(stretch.size, int)
            for move in moves:
                assert move.at + move.count <= stretch.size
                written[move.at : move.at + move.count] += 1
            assert (written <= 1).all()


@pytest.mark.parametrize("codec", list(Codec))
def test_stretches_share_the_parts_bytes_in_order(codec: Codec) -> None:
    manifest = Manifest(
        (
            TensorSpec("w", (3,), "float32", "parameter"),
            TensorSpec("mean", (2,), "float32", "statistic"),
            TensorSpec("count", (), "int64", "statistic"),
        )
    )
    layout = PartLayout(Plan.of(manifest, 1), 0)
    part = layout.new_part(codec)
    view = layout.stretches(part, codec)
    view.floats[:] = [1, 2]
    view.integers[:] = [-3]
    assert part.size == view.parameters.size * codec.itemsize + view.scales.nbytes + 2 * 4 + 8
    assert view.scales.size == (64 if codec is Codec.INT8 else 0)
    assert part[-16:].tobytes() == np.array([1, 2], "<f4").tobytes() + np.array([-3], "<i8").tobytes()
    assert not part[:-16].any()


def test_each_fragment_starts_on_a_row() -> None:
    specs = tuple(TensorSpec(f"t{i}", (n,), "float32", "parameter") for i, n in enumerate((5, 1024, 2000)))
    layout = PartLayout(Plan.of(Manifest(specs), 1), 0)
    assert [(move.at, move.count) for move in layout.parameters] == [
        (0, 5),
        (ROW_ELEMENTS, 1024),
        (2 * ROW_ELEMENTS, 2000),
    ]


def test_a_part_of_another_length_is_refused_with_both_lengths() -> None:
    layout = PartLayout(Plan.of(Manifest((TensorSpec("w", (3,), "float32", "parameter"),)), 1), 0)
    due = layout.plan.part_bytes(0, Codec.FP32)
    with pytest.raises(ShapeMismatch, match=rf"has {due - 1} bytes, fp32 under this plan {due}"):
        layout.stretches(bytes(due - 1), Codec.FP32)


def test_presence_has_the_lowest_bit_of_the_first_byte_first() -> None:
    assert presence_bitmap(10, [0, 9]) == bytes([0b0000_0001, 0b0000_0010])
    assert presence_bitmap(0, []) == b""
