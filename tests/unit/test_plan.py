"""sheepfold_wire.plan"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sheepfold_wire.codecs import Codec
from sheepfold_wire.manifest import BLOCK_ELEMENTS, ROW_ELEMENTS, Manifest, TensorSpec
from sheepfold_wire.plan import Plan, PlanError


def parameter(name: str, *shape: int, slices: tuple[int, ...] = ()) -> TensorSpec:
    return TensorSpec(name, shape, "float32", "parameter", slices)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Small and large tensors, some sliced, some statistics, over 1 to 7 shards, often cut."""
    tensors: list[TensorSpec] = []
    for i in range(draw(st.integers(0, 6))):
        leading, rest = draw(st.integers(0, 9)), draw(st.sampled_from([0, 1, 1000, 65_536, 200_001]))
        if draw(st.booleans()):
            dtype = draw(st.sampled_from(["float32", "int64", "bool"]))
            tensors.append(TensorSpec(f"t{i}", (leading, rest), dtype, "statistic"))
        else:
            sizes = (leading // 2, leading - leading // 2) if leading > 1 and draw(st.booleans()) else ()
            tensors.append(parameter(f"t{i}", leading, rest, slices=sizes))
    names = [t.name for t in tensors if t.kind == "parameter"]
    whole = draw(st.frozensets(st.sampled_from(names))) if names else frozenset()
    shards, above = draw(st.integers(1, 7)), draw(st.sampled_from([0, 400_000, 2**23]))
    return Plan.of(Manifest(tuple(tensors)), shards, above, whole)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(plans())
def test_every_block_is_on_exactly_one_shard(plan: Plan) -> None:
    seen: list[int] = []
    for shard in range(plan.shard_count):
        for f in plan.shard_fragments(shard):
            seen += range(f.first_block, f.first_block + f.blocks)
    assert sorted(seen) == list(range(plan.manifest.block_count))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(plans())
def test_every_element_is_in_exactly_one_fragment(plan: Plan) -> None:
    for piece in plan.manifest.slices:
        mine = sorted(
            (f.first_element, f.elements)
            for fragments in plan.fragments
            for f in fragments
            if f.slice == piece.index
        )
        end = 0
        for first, elements in mine:
            assert first == end
            assert first % BLOCK_ELEMENTS == 0
            end += elements
        assert end == piece.elements


@settings(max_examples=150, deadline=None, derandomize=True)
@given(plans())
def test_row_ranges_of_a_shard_are_adjacent_and_in_manifest_order(plan: Plan) -> None:
    for shard in range(plan.shard_count):
        row = 0
        slices = [f.slice for f in plan.shard_fragments(shard)]
        assert slices == sorted(set(slices))
        for f in plan.shard_fragments(shard):
            assert f.first_row == row
            row += -(-f.elements // ROW_ELEMENTS)
        assert row == plan.used_rows(shard) <= plan.rows(shard) < row + 64
        assert plan.rows(shard) % 64 == 0


@settings(max_examples=150, deadline=None, derandomize=True)
@given(plans())
def test_every_statistic_lies_dense_on_one_shard(plan: Plan) -> None:
    placed: list[int] = []
    for shard in range(plan.shard_count):
        ends = {False: 0, True: 0}
        for place in plan.statistics(shard):
            assert place.offset == ends[place.is_integer]
            ends[place.is_integer] += place.elements
            placed.append(place.tensor)
        floats, integers = ends[False], ends[True]
        assert plan.part_bytes(shard, Codec.BF16) == plan.rows(shard) * 2048 + 4 * floats + 8 * integers
    held = [i for i in plan.manifest.statistics if plan.manifest.tensors[i].elements]
    assert sorted(placed) == held


@settings(max_examples=100, deadline=None, derandomize=True)
@given(plans())
def test_only_large_tensors_that_may_be_cut_are_cut(plan: Plan) -> None:
    for index in plan.split_slices:
        tensor = plan.manifest.tensors[plan.manifest.slices[index].tensor]
        assert tensor.elements * 4 > plan.split_above_bytes
        assert tensor.name not in plan.needs_whole


def test_a_large_tensor_is_cut_into_nearly_equal_block_ranges() -> None:
    plan = Plan.of(Manifest((parameter("big", 10 * BLOCK_ELEMENTS + 5),)), 3, split_above_bytes=0)
    assert [plan.shard_fragments(s)[0].blocks for s in range(3)] == [3, 4, 4]
    assert plan.split_slices == {0}


def test_equal_tensors_go_to_the_least_loaded_shard_and_ties_to_the_lowest() -> None:
    manifest = Manifest(
        (parameter("a", 1000), parameter("b", 5000), parameter("c", 1000), parameter("d", 900))
    )
    plan = Plan.of(manifest, 2)
    assert [[f.slice for f in plan.shard_fragments(s)] for s in range(2)] == [[1], [0, 2, 3]]


def test_a_shard_may_own_nothing() -> None:
    plan = Plan.of(Manifest((parameter("a", 10), parameter("none", 0))), 3)
    assert [plan.rows(s) for s in range(3)] == [64, 0, 0]
    assert plan.part_bytes(2, Codec.FP32) == 0


def test_digest_depends_on_every_input_and_on_nothing_else() -> None:
    manifest = Manifest((parameter("a", 10), parameter("b", 10)))
    base = Plan.of(manifest, 2)
    assert base.digest == Plan.of(Manifest.from_json(manifest.to_json()), 2).digest
    others = [
        Plan.of(Manifest((parameter("a", 10),)), 2),
        Plan.of(manifest, 3),
        Plan.of(manifest, 2, split_above_bytes=1),
        Plan.of(manifest, 2, needs_whole=frozenset({"a"})),
    ]
    assert len({plan.digest for plan in [base, *others]}) == 5


def test_impossible_settings_are_refused() -> None:
    manifest = Manifest((parameter("a", 10),))
    with pytest.raises(PlanError, match="shard_count=0"):
        Plan.of(manifest, 0)
    with pytest.raises(PlanError, match="split_above_bytes=-1"):
        Plan.of(manifest, 1, split_above_bytes=-1)
    with pytest.raises(PlanError, match="'zz'"):
        Plan.of(manifest, 1, needs_whole=frozenset({"zz"}))
