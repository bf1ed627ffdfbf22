"""Gradients in one byte: int8 with an fp32 scale per row, rounded at random without a state.

A row (1,024 consecutive elements of a slice) is 1,024 integers q of -127 to 127 and a scale s; an element is
the fp32 product q * s. s is the smallest number of 17 significant bits, from 2^-126 on, with 127 * s >= the
row's largest magnitude: 7 bits times 17 fit into fp32, so that the product is exact. A row of zeros has 0 as
s; one with a value that is not finite has NaN, and every element of it decodes to NaN. A magnitude above
(1 - 2^-16) of fp32's largest may become infinite, as it does in bf16.

Encoding: q is the integer nearest to g / s + n, n one of 2^15 equally likely numbers in (-1/2, 1/2).
* abs(q * s - g) < s. Zeros, and whatever is a multiple of s, stay exactly what they are.
* The mean of q * s over the noise is within 2^-16 * s of g, 1.2e-7 of the row's largest magnitude: unbiased
  to the last bits of fp32.
* The noise is a function of the lease's seed, H(job seed, t, k), and of the row's number in the job, which
  its block has under any plan: a slot computed again, by another worker or for other shards, has equal bytes.

Generator: a row's 64-bit key is the output of SplitMix64 (Steele, Lea, Flood 2014, 10.1145/2660193.2660195)
at the row's number, from the seed. A 32-bit word for two elements, the lower half for the first one, is its
place times 0x9E3779B9 behind two rounds of multiplication and shift with the constants of MurmurHash3's
finaliser, a half of the key going into each. The client has the same for torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sheepfold_wire.codecs import CodecSizeError, Float32
from sheepfold_wire.manifest import ROW_ELEMENTS

Int8 = npt.NDArray[np.int8]
Keys = npt.NDArray[np.uint32]

CHUNK_ROWS = 128
"""Their temporaries stay in a core's caches."""

LARGEST = 127
SCALE_MIN = 2.0**-126
"""The smallest normal number of fp32: nothing is divided by a subnormal one, which a processor may flush."""
SCALE_BITS_CUT = 127
"""Of a scale's 24 significant bits the last 7 are 0."""
NOISE_UNIT = 2.0**-16

GAMMA, MIX_30, MIX_27 = 0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB
WEYL, FIRST, SECOND = 0x9E37_79B9, 0x85EB_CA6B, 0xC2B2_AE35
ODD = 0x0001_0001
"""Both halves of a word become odd: noise is symmetric about 0 and never 1/2."""

WORDS = ROW_ELEMENTS // 2
COUNTERS = np.arange(WORDS, dtype=np.uint32) * np.uint32(WEYL)
MASK_64 = (1 << 64) - 1


def row_keys(seed: int, first_row: int, rows: int) -> Keys:
    """(rows, 2): lower and upper halves of the keys of rows from `first_row` on, each block has 64."""
    with np.errstate(over="ignore"):
        counts = np.arange(1, rows + 1, dtype=np.uint64) + np.uint64(first_row)
        z = counts * np.uint64(GAMMA) + np.uint64(seed & MASK_64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_30)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_27)
        z ^= z >> np.uint64(31)
    return z.astype("<u8").view("<u4").reshape(rows, 2)


def noise(
    keys: Keys,  # (rows, 2)
) -> npt.NDArray[np.int16]:  # (rows, 1024), odd
    """What is added before rounding, in units of 2^-16."""
    words = COUNTERS ^ keys[:, :1]
    words *= np.uint32(FIRST)
    words ^= keys[:, 1:]
    words ^= words >> np.uint32(13)
    words *= np.uint32(SECOND)
    words ^= words >> np.uint32(16)
    words |= np.uint32(ODD)
    return words.astype("<u4", copy=False).view("<i2")


def row_scales(
    largest: Float32,  # (rows,) largest magnitude of each row; NaN or infinite where the row is not finite
) -> Float32:  # (rows,)
    """The scales of rows; see above."""
    with np.errstate(over="ignore", invalid="ignore"):
        scales: Float32 = np.maximum(largest / np.float32(LARGEST), np.float32(SCALE_MIN))
        bits = scales.view(np.uint32)
        bits &= np.uint32(~SCALE_BITS_CUT & 0xFFFF_FFFF)
        bits += np.uint32(SCALE_BITS_CUT + 1) * (scales * np.float32(LARGEST) < largest)
    scales[largest == 0] = 0
    scales[~np.isfinite(largest)] = np.nan
    return scales


def encode_rows(
    values: Float32,  # (elements,), from the beginning of a row on; the last row may be shorter
    keys: Keys,  # (rows, 2), of `row_keys`
    out: Int8,  # (rows * 1024,), written; beyond the elements with 0
    scales: Float32,  # (rows,), written
) -> None:
    """Raises CodecSizeError for buffers that do not belong together."""
    rows = -(-values.size // ROW_ELEMENTS)
    if (len(keys), out.size, scales.size) != (rows, rows * ROW_ELEMENTS, rows):
        raise CodecSizeError(
            f"{values.size} values are {rows} rows, given were {len(keys)} keys, room for {out.size} values "
            f"and for {scales.size} scales; give {rows}, {rows * ROW_ELEMENTS} and {rows}"
        )
    room = np.empty((2, min(rows, CHUNK_ROWS), ROW_ELEMENTS), np.float32)
    for first in range(0, rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, rows - first)
        elements = slice(first * ROW_ELEMENTS, (first + count) * ROW_ELEMENTS)
        own = slice(first, first + count)
        whole = _whole_rows(values[elements])
        scales[own] = row_scales(np.abs(whole, out=room[0, :count]).max(1))
        out[elements] = _rounded(whole, scales[own], keys[own], room[:, :count]).reshape(-1)


def _whole_rows(values: Float32) -> Float32:
    rows = -(-values.size // ROW_ELEMENTS)
    if values.size == rows * ROW_ELEMENTS:
        return values.reshape(rows, ROW_ELEMENTS)
    padded = np.zeros((rows, ROW_ELEMENTS), np.float32)
    padded.reshape(-1)[: values.size] = values
    return padded


def _rounded(rows: Float32, scales: Float32, keys: Keys, room: Float32) -> Float32:
    """(rows, 1024) integers, in the first of both buffers of that shape in `room`."""
    quotients: Float32 = room[0]
    added: Float32 = room[1]
    with np.errstate(invalid="ignore"):
        np.divide(rows, np.where(scales > 0, scales, np.float32(1))[:, None], out=quotients)
    is_bad = np.isnan(scales)
    if is_bad.any():
        quotients[is_bad] = 0
    np.copyto(added, noise(keys))
    added *= np.float32(NOISE_UNIT)
    quotients += added
    np.rint(quotients, out=quotients)
    return quotients


def decode_rows(
    encoded: Int8,  # (rows * 1024,)
    scales: Float32,  # (rows,); any bits: a negative one stands for what it multiplies to
    out: Float32 | None = None,  # (rows * 1024,), filled if given
) -> Float32:  # (rows * 1024,)
    """The fp32 products. Raises CodecSizeError for buffers that do not belong together."""
    if encoded.size != scales.size * ROW_ELEMENTS or (out is not None and out.size != encoded.size):
        room = "" if out is None else f" and room for {out.size}"
        raise CodecSizeError(
            f"{encoded.size} int8 values with {scales.size} scales{room}: give a scale for each row of "
            f"{ROW_ELEMENTS}"
        )
    result: npt.NDArray[Any] = np.empty(encoded.size, np.float32) if out is None else out
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(encoded.reshape(-1, ROW_ELEMENTS), scales[:, None], out=result.reshape(-1, ROW_ELEMENTS))
    return result
