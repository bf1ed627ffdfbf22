"""sheepfold_wire.codecs, against torch's conversions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sheepfold_wire.codecs import DOWN, Codec, CodecSizeError, decode, decode_bf16, encode, encode_bf16
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.plan import Plan

ALL_HALVES = np.arange(65_536, dtype=np.uint16)


def encoded(values: np.ndarray) -> np.ndarray:
    out = np.empty(values.size, np.uint16)
    encode_bf16(values, out)
    return out


def torch_encoded(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.uint16).numpy()


def assert_same_bits(values: np.ndarray) -> None:
    """As torch rounds it; NaN only has to stay NaN, as torch's own vector and scalar paths differ there."""
    mine, theirs, is_nan = encoded(values), torch_encoded(values), np.isnan(values)
    np.testing.assert_array_equal(mine[~is_nan], theirs[~is_nan])
    assert np.isnan(decode_bf16(mine[is_nan])).all()
    assert (mine[is_nan] & 0x40).all(), "a NaN must become quiet"


def test_all_bf16_values_decode_as_torch_decodes_them() -> None:
    theirs = torch.from_numpy(ALL_HALVES).view(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(decode_bf16(ALL_HALVES).view(np.uint32), theirs.view(np.uint32))


def test_all_bf16_values_survive_a_round_trip() -> None:
    values = decode_bf16(ALL_HALVES)
    is_nan = np.isnan(values)
    np.testing.assert_array_equal(encoded(values)[~is_nan], ALL_HALVES[~is_nan])
    assert_same_bits(values)


@pytest.mark.parametrize("lower", [0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_halfway_cases_and_their_neighbours_round_as_in_torch(lower: int) -> None:
    """Upper halves of every kind: subnormal, normal, the largest (up to infinity), infinite, NaN."""
    assert_same_bits(((ALL_HALVES.astype(np.uint32) << 16) | lower).view(np.float32))


@pytest.mark.parametrize("seed", [1, 2])
def test_random_bit_patterns_round_as_in_torch(seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2**32, 300_001, dtype=np.uint32)
    assert_same_bits(bits.view(np.float32))


def test_values_past_the_largest_bf16_become_infinite() -> None:
    largest = np.finfo(np.float32).max
    assert encoded(np.array([largest, -largest], np.float32)).tolist() == [0x7F80, 0xFF80]


@pytest.mark.parametrize("codec", DOWN)
def test_encode_and_decode_agree_with_torch_for_every_codec(codec: Codec) -> None:
    values = np.random.default_rng(3).normal(size=70_001).astype(np.float32)
    values[:4] = [np.inf, -np.inf, 1e-41, -0.0]
    dtype = {Codec.FP32: torch.float32, Codec.BF16: torch.bfloat16, Codec.FP16: torch.float16}[codec]
    out = bytearray(values.size * codec.itemsize)
    encode(codec, values, out)
    assert bytes(out) == torch.from_numpy(values).to(dtype).view(torch.uint8).numpy().tobytes()
    again = torch.from_numpy(values).to(dtype).to(torch.float32).numpy()
    np.testing.assert_array_equal(decode(codec, bytes(out)).view(np.uint32), again.view(np.uint32))
    into = np.empty(values.size, np.float32)
    assert decode(codec, out, into) is into
    np.testing.assert_array_equal(into, again)


@pytest.mark.parametrize(
    ("codec", "row_bytes"), [(Codec.FP32, 4096), (Codec.BF16, 2048), (Codec.FP16, 2048), (Codec.INT8, 1028)]
)
def test_a_row_takes_the_bytes_that_are_documented(codec: Codec, row_bytes: int) -> None:
    assert codec.row_bytes == row_bytes
    manifest = Manifest((TensorSpec("w", (1024, 1024), "float32", "parameter"),))
    assert Plan.of(manifest, 1).part_bytes(0, codec) == 1024 * row_bytes


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=500, deadline=None)
@given(st.one_of(finite, st.floats(width=32, min_value=-7e4, max_value=7e4)))
@pytest.mark.parametrize("codec", DOWN)
def test_no_value_is_off_by_more_than_is_documented(codec: Codec, value: float) -> None:
    """For fp16 between the smallest and the largest number it has; subnormal bf16 are off by 2^-134."""
    out = bytearray(codec.itemsize)
    encode(codec, np.array([value], np.float32), out)
    found, size = float(decode(codec, out)[0]), abs(value)
    limit = {
        Codec.FP32: 0.0,
        Codec.BF16: max(2.0**-8 * size, 2.0**-134),
        Codec.FP16: max(2.0**-11 * size, 2.0**-25),
    }[codec]
    largest = {Codec.BF16: float(decode_bf16(np.array([0x7F7F], np.uint16))[0]), Codec.FP16: 65_504.0}
    if size <= largest.get(codec, np.inf):
        assert abs(found - value) <= limit
    else:
        assert abs(found) in (largest[codec], np.inf)


def test_int8_is_refused_where_elements_are_encoded_one_by_one() -> None:
    with pytest.raises(ValueError, match="int8 is no format of single elements"):
        encode(Codec.INT8, np.zeros(4, np.float32), bytearray(4))
    with pytest.raises(ValueError, match="int8 is no format of single elements"):
        decode(Codec.INT8, bytes(4))


def test_fp16_overflows_to_infinity_without_a_warning() -> None:
    out = bytearray(2)
    encode(Codec.FP16, np.array([1e6], np.float32), out)
    assert decode(Codec.FP16, out)[0] == np.inf


def test_fp32_decodes_to_a_view() -> None:
    buffer = np.arange(4, dtype=np.float32)
    assert np.shares_memory(decode(Codec.FP32, buffer), buffer)


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(CodecSizeError, match="3 values"):
        encode(Codec.FP16, np.zeros(3, np.float32), bytearray(4))
    with pytest.raises(CodecSizeError, match="5 bytes"):
        decode(Codec.BF16, bytes(5))
    with pytest.raises(CodecSizeError, match="3 values"):
        decode(Codec.FP32, bytes(12), np.empty(2, np.float32))
