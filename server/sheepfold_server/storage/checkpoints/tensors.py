"""The safetensors format, for what a part holds: float32 and int64 arrays, written from where they lie.

Source: the format's description in https://github.com/huggingface/safetensors#format. The library's own
writer makes a second copy of all data in memory; a part may be most of what a host has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sheepfold_server.storage.checkpoints.errors import CheckpointCorrupt, CheckpointRefused

Arrays = Mapping[str, npt.NDArray[Any]]

DTYPES: dict[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "F32": np.dtype("<f4")}
CHUNK_BYTES = 8 * 1024 * 1024
HEADER_BYTES_MAX = 1024 * 1024
TENSORS_MAX = 64
LENGTH_BYTES = 8
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies in a file, counted in bytes from the file's start."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @property
    def bytes(self) -> int:
        """Length of its data."""
        return math.prod(self.shape) * self.dtype.itemsize


def chunks(arrays: Arrays, metadata: Mapping[str, str]) -> Iterator[memoryview]:
    """A whole file, header first, in pieces of at most 8 MiB that lie in the arrays themselves.

    Raises CheckpointRefused for other dtypes, or a header above 1 MiB.
    """
    ordered = _ordered(arrays)
    yield memoryview(_header(ordered, metadata))
    for array in ordered.values():
        flat = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(flat), CHUNK_BYTES):
            yield flat[start : start + CHUNK_BYTES]


def _ordered(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Little endian and contiguous; int64 first, so that every tensor is aligned to its items."""
    for name, array in arrays.items():
        if array.dtype not in DTYPES.values():
            raise CheckpointRefused(f"array {name!r} is {array.dtype}: give float32 or int64")
    by_size = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    return {name: np.ascontiguousarray(arrays[name]) for name in by_size}


def _header(ordered: Arrays, metadata: Mapping[str, str]) -> bytes:
    codes = {dtype: code for code, dtype in DTYPES.items()}
    document: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, array in ordered.items():
        offsets = [end, end + array.nbytes]
        document[name] = {"dtype": codes[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        end += array.nbytes
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    if len(text) > HEADER_BYTES_MAX or len(ordered) > TENSORS_MAX:
        raise CheckpointRefused(
            f"a header of {len(text)} bytes for {len(ordered)} arrays: give at most {HEADER_BYTES_MAX} bytes "
            f"and {TENSORS_MAX} arrays; shorten the metadata"
        )
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def header_bytes(first: bytes, file: str) -> int:
    """Length of the JSON header by a file's first 8 bytes."""
    length = int.from_bytes(first, "little")
    if length > HEADER_BYTES_MAX:
        raise CheckpointCorrupt(file, f"a header of at most {HEADER_BYTES_MAX} bytes", length)
    return length


def parse_header(text: bytes, file_bytes: int, file: str) -> dict[str, Entry]:
    """The tensors of a file of `file_bytes` with this JSON header.

    Raises CheckpointCorrupt unless they are of our dtypes and cover the data exactly, in order.
    """
    try:
        document = json.loads(text)
        document.pop(METADATA, None)
        found = {name: _entry(value, LENGTH_BYTES + len(text)) for name, value in document.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointCorrupt(file, "a safetensors header", repr(error)) from error
    end = LENGTH_BYTES + len(text)
    for name, entry in found.items():
        if entry.start != end or len(found) > TENSORS_MAX:
            raise CheckpointCorrupt(file, f"tensor {name!r} at byte {end}", f"it at byte {entry.start}")
        end += entry.bytes
    if end != file_bytes:
        raise CheckpointCorrupt(file, f"{end} bytes as of its header", f"{file_bytes} bytes")
    return found


def _entry(value: Any, data_start: int) -> Entry:
    shape = tuple(value["shape"])
    first, end = value["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, first, end)):
        raise ValueError(f"{value}: sizes and offsets are whole numbers from 0")
    entry = Entry(DTYPES[value["dtype"]], shape, data_start + first)
    if entry.bytes != end - first:
        raise ValueError(f"{value}: the shape takes {entry.bytes} bytes")
    return entry
