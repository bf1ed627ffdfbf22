"""sheepfold_wire.int8 and sheepfold.int8: bounds, means and bits of rows in one byte, in numpy and torch."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sheepfold.int8 import RowEncoder
from sheepfold_wire.codecs import CodecSizeError
from sheepfold_wire.int8 import decode_rows, encode_rows, noise, row_keys, row_scales
from sheepfold_wire.manifest import ROW_ELEMENTS

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 2.0**-149


def encoded(values: Float32, seed: int = 5, first_row: int = 64) -> tuple[Int8, Float32]:
    """(whole rows of integers, their scales) by numpy."""
    rows = -(-values.size // ROW_ELEMENTS)
    out, scales = np.full(rows * ROW_ELEMENTS, 99, np.int8), np.full(rows, 9, np.float32)
    encode_rows(values, row_keys(seed, first_row, rows), out, scales)
    return out, scales


def by_torch(values: torch.Tensor, seed: int = 5, first_row: int = 64) -> tuple[Int8, Float32]:
    rows = -(-values.numel() // ROW_ELEMENTS)
    out, scales = torch.full((rows * ROW_ELEMENTS,), 99, dtype=torch.int8), torch.full((rows,), 9.0)
    RowEncoder(torch.device("cpu")).encode(values, row_keys(seed, first_row, rows), out, scales)
    return out.numpy(), scales.numpy()


def normal(elements: int, seed: int = 1) -> Float32:
    return np.random.default_rng(seed).normal(size=elements).astype(np.float32)


# --- what is lost -------------------------------------------------------------------------------------

magnitudes = st.floats(width=32, allow_nan=False, allow_infinity=False)
exponents = st.integers(-149, 127)


@settings(max_examples=300, deadline=None)
@given(st.lists(magnitudes, min_size=1, max_size=40), exponents, st.integers(0, 2**63 - 1))
def test_no_element_is_off_by_as_much_as_its_rows_scale(values: list[float], shift: int, seed: int) -> None:
    """Exactly, in rationals; rows of near magnitudes are made by pushing all of them to one exponent."""
    for row in (values, [np.ldexp(np.frexp(value)[0], shift) for value in values]):
        given_row = np.array(row, np.float32)
        out, scales = encoded(given_row, seed)
        found = decode_rows(out, scales)
        if float(np.abs(given_row).max()) > LARGEST * (1 - 2.0**-16):
            continue  # as infinite as bf16 would make it; see below
        for mine, theirs in zip(found.tolist(), given_row.tolist(), strict=False):
            off = abs(Fraction(mine) - Fraction(theirs))
            assert off < Fraction(float(scales[0])) or off == 0 == theirs


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32, min_value=2.0**-149, max_value=float(np.float32(3.4e38))))
def test_a_scale_has_17_bits_and_is_the_smallest_that_reaches_the_largest_value(largest: float) -> None:
    scale = Fraction(float(row_scales(np.array([largest], np.float32))[0]))
    mantissa, exponent = np.frexp(float(scale))
    units = int(mantissa * 2**17)
    assert Fraction(float(mantissa)) == Fraction(units, 2**17), "more than 17 significant bits"
    assert 127 * scale >= Fraction(largest)
    next_below = Fraction(units - 1 if units > 2**16 else units, 2**17) * Fraction(2) ** int(exponent)
    if units == 2**16:
        next_below = Fraction(2**17 - 1, 2**18) * Fraction(2) ** int(exponent)
    assert scale == Fraction(2) ** -126 or 127 * next_below < Fraction(largest)


def test_the_product_with_any_scale_that_is_made_is_exact_in_fp32() -> None:
    scales = row_scales(np.abs(normal(2_000)) * np.float32(1e-3))
    quanta = np.arange(-127, 128, dtype=np.int8)
    for scale in scales:
        row = np.zeros(ROW_ELEMENTS, np.int8)
        row[: quanta.size] = quanta
        exact = row.astype(np.float64) * np.float64(scale)
        np.testing.assert_array_equal(decode_rows(row, np.array([scale])).astype(np.float64), exact)


def test_multiples_of_the_scale_stay_what_they_are_whatever_the_noise() -> None:
    row = (np.arange(ROW_ELEMENTS) % 255 - 127).astype(np.float32) * np.float32(0.5)
    for seed in range(50):
        np.testing.assert_array_equal(decode_rows(*encoded(row, seed)), row)


def test_a_row_of_zeros_is_zeros_with_scale_0() -> None:
    out, scales = encoded(np.array([0.0, -0.0] * 600, np.float32))
    assert not out.any()
    assert scales.tolist() == [0.0, 0.0]
    assert not decode_rows(out, scales).any()


@pytest.mark.parametrize("largest", [SMALLEST, 2.0**-140, 2.0**-126, 126 * 2.0**-126, 2.0**-119])
def test_subnormal_rows_are_rounded_without_dividing_by_0(largest: float) -> None:
    row = np.float32(largest) * np.linspace(-1, 1, ROW_ELEMENTS).astype(np.float32)
    with np.errstate(all="raise", under="ignore"):
        out, scales = encoded(row)
    assert scales[0] >= 2.0**-126
    assert (np.abs(decode_rows(out, scales).astype(float) - row) < float(scales[0])).all()


def test_the_mean_over_keys_of_a_subnormal_row_is_the_row() -> None:
    row = np.full(ROW_ELEMENTS, 2.0**-128, np.float32)
    total = sum(decode_rows(*encoded(row, seed)).astype(np.float64) for seed in range(64))
    assert float(np.mean(total)) / 64 == pytest.approx(2.0**-128, rel=0.05)


def test_values_up_to_the_largest_of_bf16_stay_finite_and_beyond_they_may_not() -> None:
    bf16_max = float(np.array([0x7F7F_0000], np.uint32).view(np.float32)[0])
    row = np.array([3e38, -bf16_max, 1.0], np.float32)
    assert np.isfinite(decode_rows(*encoded(row))).all()
    assert np.isinf(decode_rows(*encoded(np.array([LARGEST], np.float32)))[0])


# --- what is kept on average ----------------------------------------------------------------------------


def test_the_mean_over_keys_is_the_gradient_within_5_sigma() -> None:
    """Element by element: the error of one rounding has the variance p (1 - p) scale^2."""
    row, rounds = normal(ROW_ELEMENTS), 4_000
    keys = np.concatenate([row_keys(seed, 0, 1) for seed in range(rounds)])
    out, scales = np.empty(rounds * ROW_ELEMENTS, np.int8), np.empty(rounds, np.float32)
    encode_rows(np.tile(row, rounds), keys, out, scales)
    scale = float(scales[0])
    found = out.reshape(rounds, -1).mean(0, dtype=np.float64)
    wanted = row.astype(np.float64) / scale
    part = wanted - np.floor(wanted)
    sigma = np.sqrt(part * (1 - part) / rounds) + 2.0**-16
    assert np.abs((found - wanted) / sigma).max() < 5.0


def test_the_mean_over_elements_and_over_blocks_is_the_gradients_within_5_sigma() -> None:
    values = normal(64 * ROW_ELEMENTS, seed=2)
    for first_row in range(0, 640, 64):
        out, scales = encoded(values, seed=3, first_row=first_row)
        errors = (decode_rows(out, scales).astype(np.float64) - values).reshape(64, -1) / scales[:, None]
        assert abs(errors.mean()) < 5 * 0.5 / np.sqrt(values.size)


def test_noise_is_even_over_its_range_and_of_no_two_elements_or_rows_alike() -> None:
    """Chi squared over 256 bins, and correlations with neighbours, the other half, other rows and seeds."""
    drawn = noise(row_keys(9, 0, 4_096)).astype(np.float64) / 2**16
    bins = np.histogram(drawn, 256, (-0.5, 0.5))[0]
    expected = drawn.size / 256
    assert ((bins - expected) ** 2 / expected).sum() < 255 + 5 * np.sqrt(2 * 255)
    other = noise(row_keys(10, 0, 4_096)).astype(np.float64) / 2**16
    lower, upper = drawn[:, 0::2], drawn[:, 1::2]
    pairs = {
        "halves of a word": (lower, upper),
        "neighbouring words": (drawn[:, :-2], drawn[:, 2:]),
        "neighbouring rows": (drawn[:-1], drawn[1:]),
        "rows of neighbouring blocks": (drawn[:-64], drawn[64:]),
        "seeds": (drawn, other),
    }
    for name, (a, b) in pairs.items():
        assert abs((a * b).mean() * 12) < 5 / np.sqrt(a.size), name
    assert (np.abs(drawn.mean(0)) < 5 * np.sqrt(1 / 12 / 4_096)).all()
    assert (np.abs(drawn.mean(1)) < 5.5 * np.sqrt(1 / 12 / 1_024)).all()


# --- the same bits ----------------------------------------------------------------------------------------


def slow_noise(seed: int, row: int) -> list[int]:
    """The generator as its description reads, in Python's integers."""
    wide, word = (1 << 64) - 1, (1 << 32) - 1
    z = (seed + (row + 1) * 0x9E37_79B9_7F4A_7C15) & wide
    z = (z ^ z >> 30) * 0xBF58_476D_1CE4_E5B9 & wide
    z = (z ^ z >> 27) * 0x94D0_49BB_1331_11EB & wide
    z ^= z >> 31
    found = []
    for place in range(512):
        x = (place * 0x9E37_79B9 & word) ^ (z & word)
        x = (x * 0x85EB_CA6B & word) ^ z >> 32
        x = (x ^ x >> 13) * 0xC2B2_AE35 & word
        x ^= x >> 16
        for half in (x & 0xFFFF, x >> 16):
            odd = half | 1
            found.append(odd - 0x1_0000 if odd >> 15 else odd)
    return found


SEEDS = [0, 1, 2**63 - 1, 0x1234_5678_9ABC_DEF0]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("row", [0, 1, 63, 64, 2**40])
def test_noise_is_that_of_its_description(seed: int, row: int) -> None:
    assert noise(row_keys(seed, row, 3))[0].tolist() == slow_noise(seed, row)
    assert noise(row_keys(seed, row, 3))[2].tolist() == slow_noise(seed, row + 2)


def test_splitmix64_is_the_published_one() -> None:
    """The first outputs from seed 1234567, as other implementations give them."""
    keys = row_keys(1234567, 0, 3).astype(np.uint64)
    outputs = (keys[:, 0] | keys[:, 1] << np.uint64(32)).tolist()
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_bytes_of_a_row_are_those_of_the_golden_values() -> None:
    """A change of these bytes is a change of the format: old and new workers would round apart."""
    row = np.linspace(-1, 1, ROW_ELEMENTS).astype(np.float32)
    out, scales = encoded(row, seed=42, first_row=128)
    scale = Fraction(float(scales[0]))
    assert scale == Fraction(66053, 2**16) / 128
    expected = []
    for value, added in zip(row.tolist(), slow_noise(42, 128), strict=True):
        quotient = np.float32(value) / scales[0]
        expected.append(round(float(np.float32(quotient + np.float32(added / 2**16)))))
    assert out.tolist() == expected
    assert out[60::64].tolist() == [-112, -96, -80, -64, -49, -33, -17, -1, 15, 31, 46, 63, 78, 94, 110, 126]


@pytest.mark.parametrize("elements", [1, 1_023, 1_024, 1_025, 700 * 1_024 + 5])
def test_torch_and_numpy_give_the_same_bytes(elements: int) -> None:
    values = normal(elements) * np.exp(normal(elements, 4) * 15)
    mine, theirs = encoded(values), by_torch(torch.from_numpy(values))
    np.testing.assert_array_equal(mine[0], theirs[0])
    np.testing.assert_array_equal(mine[1].view(np.uint32), theirs[1].view(np.uint32))


@pytest.mark.parametrize(
    "first", [0.0, SMALLEST, 2.0**-130, 2.0**-126, 127.0, 3e38, LARGEST, np.inf, -np.inf, np.nan]
)
def test_torch_and_numpy_agree_on_odd_rows(first: float) -> None:
    values = np.zeros(3 * ROW_ELEMENTS - 9, np.float32)
    values[: 2 * ROW_ELEMENTS] = np.float32(first)
    values[:ROW_ELEMENTS:3] = 0
    mine, theirs = encoded(values), by_torch(torch.from_numpy(values))
    np.testing.assert_array_equal(mine[0], theirs[0])
    np.testing.assert_array_equal(mine[1], theirs[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_are_rounded_from_their_fp32_values(dtype: torch.dtype) -> None:
    halves = torch.from_numpy(normal(5_000)).to(dtype)
    np.testing.assert_array_equal(by_torch(halves)[0], encoded(halves.float().numpy())[0])


def test_bytes_depend_on_seed_and_row_and_on_nothing_else() -> None:
    values = normal(64 * ROW_ELEMENTS)
    base = encoded(values)[0].tobytes()
    assert encoded(values)[0].tobytes() == base
    assert encoded(values, seed=6)[0].tobytes() != base
    assert encoded(values, first_row=128)[0].tobytes() != base
    later = encoded(values[10 * ROW_ELEMENTS :], first_row=64 + 10)[0].tobytes()
    assert later == base[10 * ROW_ELEMENTS :], "a row's bytes must not depend on where encoding began"


# --- what is not finite ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_decodes_to_nan_and_its_neighbours_do_not(bad: float) -> None:
    values = normal(3 * ROW_ELEMENTS)
    values[ROW_ELEMENTS + 7] = bad
    with np.errstate(all="raise"):
        out, scales = encoded(values)
    assert np.isnan(scales).tolist() == [False, True, False]
    assert not out[ROW_ELEMENTS : 2 * ROW_ELEMENTS].any()
    found = np.isnan(decode_rows(out, scales)).reshape(3, -1)
    assert found.all(1).tolist() == found.any(1).tolist() == [False, True, False]


def test_padding_is_zero_also_in_a_row_that_is_not_finite() -> None:
    values = np.full(10, np.nan, np.float32)
    assert not encoded(values)[0].any()
    assert not by_torch(torch.from_numpy(values))[0].any()


def test_a_scale_of_any_bits_decodes_to_the_product() -> None:
    """No client of ours writes such scales; whoever does could as well have sent other integers."""
    quanta = np.full(3 * ROW_ELEMENTS, -128, np.int8)
    found = decode_rows(quanta, np.array([-0.5, 3e38, np.inf], np.float32))
    assert found[::ROW_ELEMENTS].tolist() == [64.0, -np.inf, -np.inf]


def test_buffers_that_do_not_belong_together_are_refused_with_their_sizes() -> None:
    out, scales = np.empty(2 * ROW_ELEMENTS, np.int8), np.empty(2, np.float32)
    with pytest.raises(CodecSizeError, match="1025 values are 2 rows, given were 1 keys"):
        encode_rows(normal(1_025), row_keys(0, 0, 1), out, scales)
    with pytest.raises(CodecSizeError, match="2048 int8 values with 1 scales"):
        decode_rows(out, scales[:1])
    with pytest.raises(CodecSizeError, match="and room for 5"):
        decode_rows(out, scales, np.empty(5, np.float32))
