"""sheepfold_server.optim.passes (folding), fold and payload"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.oracle.shards import pack

from sheepfold_server.optim.fold import Contribution, StatisticSums
from sheepfold_server.optim.kernel import EagerKernel
from sheepfold_server.optim.layout import ShardLayout
from sheepfold_server.optim.passes import decoded
from sheepfold_server.optim.payload import Part, PartLengthError, check_part, read_part
from sheepfold_wire.codecs import Codec
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.plan import Plan

MANIFEST = Manifest(
    (
        TensorSpec("w", (70_000,), "float32", "parameter"),
        TensorSpec("mean", (5,), "float32", "statistic"),
        TensorSpec("b", (10,), "float32", "parameter"),
        TensorSpec("seen", (), "int64", "statistic"),
    )
)
PLAN = Plan.of(MANIFEST, 1)
LAYOUT = ShardLayout(PLAN, 0)


def values(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    floats = {
        n: rng.normal(size=MANIFEST.tensors[i].shape).astype(np.float32)
        for i, n in enumerate(["w", "mean", "b"])
    }
    return floats | {"seen": np.array(seed)}


def folded(parts: list[torch.Tensor], factors: list[float], tile_rows: int = 64) -> torch.Tensor:
    """The sum of some parts; what it held before is never read."""
    total = torch.full((parts[0].shape[0], 1024), torch.nan)
    kernel = EagerKernel("cpu", tile_rows)
    for number, (part, factor) in enumerate(zip(parts, factors, strict=True)):
        kernel.fold(total, part, None, float(np.float32(factor)), number == 0)
    return total


def random_parts(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((320, 1024), generator=generator) for _ in range(3)]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


def test_contributions_are_added_in_the_order_given_with_one_rounding_each() -> None:
    parts, factors = random_parts(1), [3.0, 0.1, 7.7]
    expected = np.float32(3.0) * np.asarray(parts[0], np.float32)
    for p, f in zip(parts[1:], factors[1:], strict=True):
        expected = expected + p.numpy() * np.float32(f)
    assert bits(folded(parts, factors)) == expected.tobytes()
    assert bits(folded(parts[::-1], factors[::-1])) != expected.tobytes(), "the order must be visible"


def test_the_first_contribution_is_copied_so_that_a_negative_zero_keeps_its_sign() -> None:
    zeros = torch.full((64, 1024), -0.0)
    assert bits(folded([zeros], [1.0])) == bits(zeros)


@pytest.mark.parametrize("tile_rows", [128, 256])
def test_bits_do_not_depend_on_tile_rows(tile_rows: int) -> None:
    parts = random_parts(2)
    assert bits(folded(parts, [1.0, 2.5, 0.3], tile_rows)) == bits(folded(parts, [1.0, 2.5, 0.3]))


def test_the_last_contribution_is_folded_divided_and_measured_in_one_pass() -> None:
    parts, factors = random_parts(3), [2.5, 1.0, 0.5]
    total = folded(parts[:2], factors[:2])
    squares, largest = torch.empty(320, dtype=torch.float64), torch.empty(320)
    EagerKernel("cpu", 64).fold_last(total, parts[2], None, 0.5, False, 4.0, squares, largest)
    mean = folded(parts, factors) / 4.0
    assert bits(total) == bits(mean)
    assert bits(squares) == bits((mean.double() ** 2).sum(1))
    assert bits(largest) == bits(mean.abs().amax(1))


def test_the_only_contribution_of_a_step_is_copied() -> None:
    part = random_parts(4)[0]
    total, squares, largest = torch.full((320, 1024), torch.nan), torch.empty(320).double(), torch.empty(320)
    EagerKernel().fold_last(total, part, None, 1.0, True, 2.0, squares, largest)
    assert bits(total) == bits(part / 2.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parts_are_widened_before_they_are_scaled(dtype: torch.dtype) -> None:
    half = random_parts(4)[0].to(dtype)
    assert bits(folded([half], [1.7])) == bits(half.float() * np.float32(1.7))


def int8_parts(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Integers and scales; some with more than the 17 bits that our clients give them, one negative."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(3):
        quanta = torch.randint(-128, 128, (320, 1024), generator=generator, dtype=torch.int8)
        found.append((quanta, torch.randn((320, 1), generator=generator)))
    return found


def folded_int8(
    parts: list[tuple[torch.Tensor, torch.Tensor]], factors: list[float], tile_rows: int = 64
) -> torch.Tensor:
    total, kernel = torch.full((320, 1024), torch.nan), EagerKernel("cpu", tile_rows)
    for number, ((quanta, scales), factor) in enumerate(zip(parts, factors, strict=True)):
        kernel.fold(total, quanta, scales, float(np.float32(factor)), number == 0)
    return total


@pytest.mark.parametrize("tile_rows", [64, 128, 256])
def test_an_int8_part_is_folded_as_the_fp32_products_with_its_scales(tile_rows: int) -> None:
    parts, factors = int8_parts(6), [1.0, 2.5, 0.3]
    products = [torch.from_numpy(q.numpy().astype(np.float32) * s.numpy()) for q, s in parts]
    assert bits(folded_int8(parts, factors, tile_rows)) == bits(folded(products, factors))
    (quanta, scales), squares, largest = parts[2], torch.empty(320).double(), torch.empty(320)
    for is_first in (True, False):
        mine, theirs = folded(products[:1], [1.0]), folded(products[:1], [1.0])
        kernel = EagerKernel("cpu", tile_rows)
        kernel.fold_last(mine, quanta, scales, 0.5, is_first, 4.0, squares, largest)
        kernel.fold_last(theirs, products[2], None, 0.5, is_first, 4.0, squares.clone(), largest.clone())
        assert bits(mine) == bits(theirs)
        assert bits(squares) == bits((mine.double() ** 2).sum(1))


def test_float_statistics_are_averaged_and_of_integer_statistics_the_largest_stays() -> None:
    sums = StatisticSums(2, 2)
    for number, (floats, integers, factor) in enumerate(
        [([1.0, 2.0], [5, -7], 1.0), ([4.0, 5.0], [3, -2], 3.0)]
    ):
        one = Part(torch.empty((0, 1024)), np.array(floats, np.float32), np.array(integers))
        sums.fold(Contribution(one, np.float32(factor)), number == 0)
    assert sums.divide(np.float32(4.0))
    assert sums.floats.tolist() == [3.25, 4.25]
    assert sums.integers.tolist() == [5, -2]


def test_a_statistic_that_overflows_is_reported_as_not_finite() -> None:
    sums = StatisticSums(1, 0)
    for number in range(2):
        one = Part(torch.empty((0, 1024)), np.array([3e38], np.float32), np.empty(0, np.int64))
        sums.fold(Contribution(one, np.float32(1)), number == 0)
    assert not sums.divide(np.float32(2))


@pytest.mark.parametrize("codec", list(Codec))
def test_a_part_of_another_length_is_refused_with_both_lengths(codec: Codec) -> None:
    payload = pack(PLAN, 0, values(1), codec)
    for wrong in (payload[:-1], payload + b"\0", b""):
        with pytest.raises(PartLengthError, match=str(len(payload))):
            check_part(LAYOUT, wrong, codec)


@pytest.mark.parametrize("codec", list(Codec))
def test_a_good_part_passes_with_its_sums_of_squares(codec: Codec) -> None:
    payload = pack(PLAN, 0, values(2), codec)
    check = check_part(LAYOUT, memoryview(payload), codec)
    assert check.padding_is_zero
    assert check.nonfinite == {}
    part = read_part(PLAN, 0, payload, codec)
    w = decoded(part.parameters, part.scales).double().reshape(-1).numpy()[:65_536]
    assert check.sum_of_squares[0] == pytest.approx((w * w).sum(), rel=1e-12)
    assert check.sum_of_squares.shape == (3,)


@pytest.mark.parametrize("codec", list(Codec))
def test_non_finite_values_are_counted_per_tensor(codec: Codec) -> None:
    bad = values(3)
    bad["w"][[5, 69_999]] = [np.nan, np.inf]
    bad["b"][0] = -np.inf
    bad["mean"][:2] = np.nan
    check = check_part(LAYOUT, pack(PLAN, 0, bad, codec), codec)
    rows = {"w": 1024 + 70_000 % 1024, "b": 10}  # a row of int8 loses all of its elements
    assert check.nonfinite == {"w": 2, "b": 1, "mean": 2} | (rows if codec is Codec.INT8 else {})
    assert check.padding_is_zero
    assert np.isfinite(check.sum_of_squares).tolist() == [False, False, False]


# w takes rows 0 to 68 and ends at element 70,000; b takes row 69; rows 70 to 127 are unused.
@pytest.mark.parametrize("element", [70_000, 69 * 1024 - 1, 69 * 1024 + 10, 70 * 1024, 128 * 1024 - 1])
@pytest.mark.parametrize("value", [1.0, np.nan, 1e-40])
def test_anything_but_zero_in_the_padding_is_noticed(element: int, value: float) -> None:
    payload = bytearray(pack(PLAN, 0, values(4)))
    np.frombuffer(payload, np.float32, PLAN.rows(0) * 1024)[element] = value
    assert not check_part(LAYOUT, payload, Codec.FP32).padding_is_zero


def int8_payload(seed: int) -> tuple[bytearray, np.ndarray, np.ndarray]:
    """A part and views of its integers and scales."""
    payload = bytearray(pack(PLAN, 0, values(seed), Codec.INT8))
    rows = PLAN.rows(0)
    quanta = np.frombuffer(payload, np.int8, rows * 1024).reshape(rows, 1024)
    return payload, quanta, np.frombuffer(payload, np.float32, rows, rows * 1024)


@pytest.mark.parametrize(("row", "column"), [(68, 368), (69, 10), (70, 0), (127, 1023)])
def test_anything_but_zero_in_the_padding_of_an_int8_part_is_noticed(row: int, column: int) -> None:
    payload, quanta, _ = int8_payload(4)
    quanta[row, column] = 1
    assert not check_part(LAYOUT, payload, Codec.INT8).padding_is_zero


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 1e-40])
def test_a_scale_of_a_row_that_no_tensor_has_is_noticed(scale: float) -> None:
    """0 * NaN would be summed, and every step skipped for a value that belongs to no tensor."""
    payload, _, scales = int8_payload(4)
    scales[70] = scale
    assert not check_part(LAYOUT, payload, Codec.INT8).padding_is_zero


@pytest.mark.parametrize(("row", "name", "count"), [(0, "w", 1024), (68, "w", 368), (69, "b", 10)])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_not_finite_is_told_by_the_tensor_of_its_row(
    row: int, name: str, count: int, scale: float
) -> None:
    payload, _, scales = int8_payload(4)
    scales[row] = scale
    check = check_part(LAYOUT, payload, Codec.INT8)
    assert (check.nonfinite, check.padding_is_zero) == ({name: count}, True)


def test_a_scale_that_is_finite_and_overflows_is_told_of_too() -> None:
    payload, quanta, scales = int8_payload(4)
    quanta[3], scales[3] = 0, 3e38
    quanta[3, 5] = -128
    assert check_part(LAYOUT, payload, Codec.INT8).nonfinite == {"w": 1}


def test_a_negative_scale_and_the_integer_minus_128_stand_for_their_product() -> None:
    payload, quanta, scales = int8_payload(4)
    quanta[69, :10], scales[69] = -128, -0.5
    check = check_part(LAYOUT, payload, Codec.INT8)
    assert (check.nonfinite, check.padding_is_zero) == ({}, True)
    assert check.sum_of_squares[2] == 10 * 64.0**2


def test_a_read_only_part_is_viewed_without_a_copy_or_a_warning() -> None:
    payload = pack(PLAN, 0, values(5))
    assert (
        read_part(PLAN, 0, payload, Codec.FP32).parameters.data_ptr()
        == np.frombuffer(payload, np.uint8).ctypes.data
    )
