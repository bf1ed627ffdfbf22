"""Which samples a step reads: a function of the job alone, the same on every worker.

The sample stream of a job is a concatenation of permutations of the data set, one per data epoch. A
permutation orders the indices by a 64-bit hash of (seed, epoch, index), ties by index, so it does not
change with the version of any library.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import xxhash

_UINT64 = 0xFFFFFFFFFFFFFFFF


def slot_seed(job_seed: int, step: int, slot: int) -> int:
    """Seed H(job seed, t, k) of a lease, 63 bits, for dropout and augmentation."""
    return xxhash.xxh3_64_intdigest(f"{job_seed}/{step}/{slot}".encode()) >> 1


def rank_seed(seed: int, rank: int) -> int:
    """A lease's seed for one rank of a host group: its own for rank 0, so that a group of one is no other."""
    return xxhash.xxh3_64_intdigest(f"{seed}/rank/{rank}".encode()) >> 1 if rank else seed


def _scrambled(values: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint64]:
    """splitmix64 of `values + key`. Source: Steele, Lea, Flood 2014, Fast splittable generators."""
    z = values + np.uint64(key & _UINT64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@lru_cache(maxsize=2)
def epoch_order(samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Permutation of range(samples) for one data epoch; shape (samples,), int64, read-only."""
    key = xxhash.xxh3_64_intdigest(f"{seed}/epoch/{epoch}".encode())
    spread = np.arange(samples, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    order = np.argsort(_scrambled(spread, key), kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def stream_indices(samples: int, seed: int, start: int, count: int) -> npt.NDArray[np.int64]:
    """Indices into the data set of stream positions [start, start + count); shape (count,), int64."""
    if samples <= 0:
        raise ValueError(f"a sample stream needs a data set of at least 1 sample, got {samples}")
    pieces = []
    position, end = start, start + count
    while position < end:
        epoch, offset = divmod(position, samples)
        taken = min(samples - offset, end - position)
        pieces.append(epoch_order(samples, seed, epoch)[offset : offset + taken])
        position += taken
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
