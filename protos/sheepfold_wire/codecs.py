"""Number formats on the wire; fp32, bf16 and fp16 converted with numpy alone. int8 stands in `int8`.

The client needs neither torch nor ml_dtypes for them. Everything is little endian.

| codec | bytes of a row of 1,024 | per parameter | error of a value g, r the largest magnitude of its row |
|---|---|---|---|
| fp32 | 4,096 | 4 | none |
| bf16 | 2,048 | 2 | at most 2^-8 abs(g): rounded to nearest, 8 significant bits |
| fp16 | 2,048 | 2 | at most 2^-11 abs(g) from 2^-14 to 65,504; below, 2^-25; above, infinite |
| int8 | 1,028 | 1.0039 | below r / 126.99, and 0 on average: see `int8` |
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from sheepfold_wire.manifest import ROW_ELEMENTS

Buffer = bytes | bytearray | memoryview
Float32 = npt.NDArray[np.float32]
Uint16 = npt.NDArray[np.uint16]

CHUNK_ELEMENTS = 65_536  # 256 KiB of fp32 and its temporaries stay in a core's second-level cache

INFINITY_BITS = np.uint32(0x7F80_0000)
MAGNITUDE_BITS = np.uint32(0x7FFF_FFFF)
QUIET_NAN = np.uint16(0x0040)

SCALE_BYTES = 4


class Codec(Enum):
    """How the parameters of a part are written; statistics are fp32 and int64 under every codec."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    """Gradients only: a scale for each row follows the rows."""

    @property
    def itemsize(self) -> int:
        """Bytes of one element, without the scale of its row."""
        return self.storage.itemsize

    @property
    def has_scales(self) -> bool:
        """Whether a row has an fp32 scale, by which its elements are multiplied."""
        return self is Codec.INT8

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of 1,024 elements, its scale included."""
        return ROW_ELEMENTS * self.itemsize + SCALE_BYTES * self.has_scales

    @property
    def storage(self) -> np.dtype[Any]:
        """The numpy type of the raw bytes; bf16, which numpy lacks, is held as uint16."""
        return np.dtype(STORAGE[self])


STORAGE = {Codec.FP32: "<f4", Codec.BF16: "<u2", Codec.FP16: "<f2", Codec.INT8: "<i1"}

DOWN = (Codec.FP32, Codec.BF16, Codec.FP16)
"""What weights come down in: each element stands for itself."""


class CodecSizeError(ValueError):
    """A buffer's length and the number of elements do not belong together."""


def encode_bf16(values: Float32, out: Uint16) -> None:
    """Writes `values` as bf16 bit patterns, rounded to nearest, ties to even.

    Shapes: both (elements,), contiguous. Overflow gives infinity as in IEEE 754; a NaN stays a NaN: it
    keeps its sign and upper payload and becomes quiet (a signalling one could truncate to infinity).
    """
    _same_length(values.size, out.size)
    bits = values.view(np.uint32)
    for start in range(0, bits.size, CHUNK_ELEMENTS):
        chunk = slice(start, start + CHUNK_ELEMENTS)
        out[chunk] = _rounded_to_bf16(bits[chunk])


def _rounded_to_bf16(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The upper halves of `bits`, rounded: 0x7fff plus the kept half's last bit breaks ties to even."""
    upper = bits >> np.uint32(16)
    rounded = (bits + (np.uint32(0x7FFF) + (upper & np.uint32(1)))) >> np.uint32(16)
    is_nan = (bits & MAGNITUDE_BITS) > INFINITY_BITS
    if is_nan.any():
        rounded[is_nan] = upper[is_nan] | QUIET_NAN
    return rounded


def decode_bf16(halves: Uint16, out: Float32 | None = None) -> Float32:
    """The fp32 values of bf16 bit patterns, exactly. Shapes: (elements,); `out` is filled if given."""
    result = np.empty(halves.size, np.float32) if out is None else out
    _same_length(halves.size, result.size)
    np.left_shift(halves, 16, out=result.view(np.uint32), dtype=np.uint32)
    return result


def encode(codec: Codec, values: Float32, out: bytearray | memoryview | npt.NDArray[Any]) -> None:
    """Writes fp32 `values` (elements,) into the writable buffer `out` of elements * itemsize bytes; not int8.

    fp16 rounds to nearest even and overflows to infinity beyond 65,504 without a warning: whether an
    infinity is acceptable is decided where contributions are checked.
    """
    _of_elements(codec)
    target = np.frombuffer(out, codec.storage)
    _same_length(values.size, target.size)
    if codec is Codec.BF16:
        encode_bf16(values, target)
    elif codec is Codec.FP16:
        _encode_fp16(values, target)
    else:
        target[:] = values


def _encode_fp16(values: Float32, out: npt.NDArray[np.float16]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, values.size, CHUNK_ELEMENTS):
            chunk = slice(start, start + CHUNK_ELEMENTS)
            out[chunk] = values[chunk]


def decode(codec: Codec, buffer: Buffer | npt.NDArray[Any], out: Float32 | None = None) -> Float32:
    """The fp32 values (elements,) of an encoded buffer, exactly; not of int8.

    Without `out`, fp32 answers a view of `buffer` and copies nothing.
    """
    _of_elements(codec)
    raw = np.frombuffer(buffer, np.uint8)
    if raw.size % codec.itemsize:
        raise CodecSizeError(
            f"{raw.size} bytes are no whole number of {codec.value} elements of {codec.itemsize} bytes; "
            "send it again"
        )
    stored = raw.view(codec.storage)
    if codec is Codec.BF16:
        return decode_bf16(stored, out)
    if out is None:
        return stored.astype(np.float32, copy=False)
    _same_length(stored.size, out.size)
    out[:] = stored
    return out


def _of_elements(codec: Codec) -> None:
    if codec.has_scales:
        raise ValueError(f"{codec.value} is no format of single elements: use sheepfold_wire.int8, by rows")


def _same_length(values: int, out: int) -> None:
    if values != out:
        raise CodecSizeError(
            f"{values} values do not fit a buffer for {out}; give a buffer of the same length"
        )
