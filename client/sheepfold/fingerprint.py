"""A data set's fingerprint: whether two workers mean the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

SAMPLES_LOOKED_AT = 16


def data_fingerprint(data_set: Any) -> str:
    """16 hex digits from the data set's length and 16 of its samples, spread evenly from first to last.

    Put it into the job file (`data.fingerprint`) and give it to `attach(data_fingerprint=...)`: a worker with
    other data, or in another order, is then refused. Samples are arrays, tensors, numbers, text, bytes, or
    lists, tuples and dictionaries of them; a data set that augments at random has no fingerprint.
    """
    count = len(data_set)
    digest = xxhash.xxh3_64(f"{count} samples".encode())
    spread = np.linspace(0, count - 1, min(count, SAMPLES_LOOKED_AT)).round().astype(int)
    for index in sorted({int(i) for i in spread}):
        digest.update(f"|{index}:".encode())
        _add(digest, data_set[index])
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Feed a sample to the digest; raises TypeError for what has no bytes of its own."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(f"{key}=".encode())
            _add(digest, value[key])
    elif isinstance(value, str | bytes | bytearray):
        digest.update(value.encode() if isinstance(value, str) else bytes(value))
    elif isinstance(value, bool | int | float | complex) or value is None:
        digest.update(repr(value).encode())
    elif isinstance(value, Sequence):
        for item in value:
            digest.update(b",")
            _add(digest, item)
    elif hasattr(value, "__array__") or isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(np.asarray(value))
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    else:
        raise TypeError(
            f"a sample of type {type(value).__name__} has no bytes of its own: give data_fingerprint a data "
            "set of arrays, tensors, numbers or text"
        )
