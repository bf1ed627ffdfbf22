"""sheepfold_wire.manifest"""

from __future__ import annotations

import json

import pytest

from sheepfold_wire.manifest import Manifest, ManifestError, TensorSpec, first_difference


def spec(name: str = "w", shape: tuple[int, ...] = (3, 4), **other: object) -> TensorSpec:
    return TensorSpec(**{"name": name, "shape": shape, "dtype": "float32", "kind": "parameter"} | other)  # type: ignore[arg-type]


MODEL = Manifest(
    (
        spec("scalar", ()),
        spec("layers", (24, 5000), slices=(12, 10, 2)),
        spec("mean", (7,), kind="statistic"),
        spec("empty", (0, 3)),
        spec("count", (), kind="statistic", dtype="int64"),
        spec("head", (70_000,), dtype="bfloat16"),
    )
)


def test_json_round_trip_keeps_manifest_and_digest() -> None:
    again = Manifest.from_json(MODEL.to_json())
    assert again == MODEL
    assert again.digest == MODEL.digest


def test_canonical_json_is_fixed() -> None:
    """Its digest is compared between versions of this program, so its form must not drift."""
    assert Manifest((spec("w", (2,)),)).to_json() == (
        '{"format":1,"tensors":[{"dtype":"float32","kind":"parameter","name":"w","shape":[2],"slices":[]}]}'
    )


def test_slices_count_over_parameters_only_and_are_named_by_range() -> None:
    assert [(s.index, s.tensor, s.name) for s in MODEL.slices] == [
        (0, 0, "scalar"),
        (1, 1, "layers[0:12]"),
        (2, 1, "layers[12:22]"),
        (3, 1, "layers[22:24]"),
        (4, 3, "empty"),
        (5, 5, "head"),
    ]


def test_slices_begin_where_the_leading_axis_says() -> None:
    assert [(s.first_element, s.elements) for s in MODEL.slices[1:4]] == [
        (0, 60_000),
        (60_000, 50_000),
        (110_000, 10_000),
    ]


def test_rows_and_blocks_are_cut_from_each_slice() -> None:
    assert [(s.rows, s.blocks) for s in MODEL.slices] == [(1, 1), (59, 1), (49, 1), (10, 1), (0, 0), (69, 2)]


def test_blocks_are_numbered_consecutively_over_all_slices() -> None:
    assert [MODEL.first_block(i) for i in range(6)] == [0, 1, 2, 3, 4, 4]
    assert MODEL.block_count == 6


def test_parameters_and_statistics_are_told_apart() -> None:
    assert MODEL.parameters == (0, 1, 3, 5)
    assert MODEL.statistics == (2, 4)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (spec(""), "0 characters"),
        (spec("x" * 513), "513 characters"),
        (spec("a\nb"), "printable"),
        (spec(shape=(3, -1)), "-1"),
        (spec(shape=(1,) * 33), "32 dimensions"),
        (spec(shape=(2**30, 2**30)), "laid out"),
        (spec(dtype="float64"), "float64"),
        (spec(dtype="int64"), "cannot be a parameter"),
        (spec(kind="buffer"), "buffer"),
        (spec(slices=(1, 1)), "add up to 2"),
        (spec(slices=(3, 0)), "positive sizes"),
        (spec(shape=(), slices=(1,)), "leading axis"),
        (spec(kind="statistic", slices=(3,)), "no trust ratio"),
    ],
)
def test_an_impossible_tensor_is_refused_with_its_value(tensor: TensorSpec, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        Manifest((tensor,))


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(ManifestError, match="'w'"):
        Manifest((spec(), spec()))


def test_too_many_tensors_are_refused() -> None:
    with pytest.raises(ManifestError, match="65536"):
        Manifest(tuple(spec(f"t{i}", ()) for i in range(65_537)))


GOOD = json.loads(Manifest((spec(),)).to_json())


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"format": 2},
        {"tensors": "none"},
        {"tensors": [1]},
        {"tensors": [GOOD["tensors"][0] | {"device": "cuda"}]},
        {"tensors": [{"name": "w"}]},
        {"tensors": [GOOD["tensors"][0] | {"shape": [True, 2]}]},
        {"tensors": [GOOD["tensors"][0] | {"shape": [2.0]}]},
        {"tensors": [GOOD["tensors"][0] | {"name": 3}]},
    ],
)
def test_json_of_another_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(json.dumps(GOOD | change))


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "[" * 100_000, "9" * 5_000])
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        (spec("v"), "tensor 0 (w): name is 'w' here, but 'v' there"),
        (spec(shape=(3, 5)), "tensor 0 (w): shape is (3, 4) here, but (3, 5) there"),
        (spec(dtype="float16"), "tensor 0 (w): dtype is 'float32' here, but 'float16' there"),
        (spec(kind="statistic"), "tensor 0 (w): kind is 'parameter' here, but 'statistic' there"),
        (spec(slices=(1, 2)), "tensor 0 (w): slices is () here, but (1, 2) there"),
    ],
)
def test_first_difference_names_tensor_field_and_both_values(theirs: TensorSpec, sentence: str) -> None:
    assert first_difference(Manifest((spec(),)), Manifest((theirs,))) == sentence


def test_first_difference_names_the_tensor_only_one_side_has() -> None:
    short, long = Manifest((spec(),)), Manifest((spec(), spec("b")))
    assert first_difference(short, long) == "1 tensors here, but 2 there: tensor 1 (b) is only there"
    assert first_difference(long, short) == "2 tensors here, but 1 there: tensor 1 (b) is only here"
    assert first_difference(long, long) is None
