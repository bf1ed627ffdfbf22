"""One digest of a job's whole state, whatever the number of shards that hold it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

Entry = tuple[int, bytes]
"""(key, 16 bytes of XXH3-128) of one piece of state.

The key is a global block index for the w, m, v of a block; BIAS_COUNTERS + manifest tensor index for
the applied steps of a parameter; STATISTICS + manifest tensor index for the values of a statistic.
"""

BIAS_COUNTERS = 1 << 60
STATISTICS = 1 << 61


class DigestConflict(ValueError):
    """Two shards answered differently for the same piece of state: one of them is wrong."""

    def __init__(self, key: int, first: bytes, second: bytes) -> None:
        super().__init__(
            f"{describe_key(key)} has digest {first.hex()} on one shard and {second.hex()} on another; "
            "restore both shards from one checkpoint"
        )


def describe_key(key: int) -> str:
    """What an entry covers, for people."""
    if key >= STATISTICS:
        return f"statistic of tensor {key - STATISTICS}"
    if key >= BIAS_COUNTERS:
        return f"bias counter of tensor {key - BIAS_COUNTERS}"
    return f"block {key}"


def combine_digests(entries: Iterable[Entry]) -> str:
    """SHA-256 hex over the sorted entries of all shards; equal states give equal digests for any plan.

    An entry that several shards hold alike (the bias counter of a split tensor) counts once.
    Raises DigestConflict where they differ.
    """
    total = hashlib.sha256()
    previous: Entry | None = None
    for key, digest in sorted(set(entries)):
        if previous is not None and previous[0] == key:
            raise DigestConflict(key, previous[1], digest)
        total.update(struct.pack("<Q", key) + digest)
        previous = key, digest
    return total.hexdigest()
