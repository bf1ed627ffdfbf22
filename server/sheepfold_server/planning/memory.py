"""Memory, disks and logs of the roles. The shards' are the chart's, which a test compares."""

from __future__ import annotations

import math
from functools import lru_cache

from sheepfold_server.planning.setting import CODEC_BYTES, Fleet, Work
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.plan import SPLIT_ABOVE_BYTES, Plan

PROCESS_BYTES = 1_610_612_736
"""Python, torch and a compiler at work."""
STAGING_BYTES_MIN = 1 << 30
STAGING_BYTES_PER_PARAMETER = 32
DISK_BYTES_MIN, DISK_BYTES_MORE, DISK_BYTES_PER_PARAMETER = 2 << 30, 256 << 20, 200
"""A log takes ten to thirteen times the state before it is cut."""
UNEVEN = 1.1
"""Largest shard over the mean one, as the chart reckons."""
COORDINATOR_BYTES, COORDINATOR_BYTES_PER_SQUARE = 1 << 30, 32
"""What the chart asks for; a sum of squares of one block, as Python keeps it."""
LOG_BYTES_PER_BLOCK, LOG_BYTES_PER_SLOT = 11, 150
"""Of the coordinator's log, in a step."""


@lru_cache
def imbalance(parameters: int, tensor: int, shards: int) -> float:
    """Largest shard / mean shard. With `tensor` as the plan places a model of tensors of that size."""
    if shards == 1:
        return 1.0
    if not tensor:
        return UNEVEN
    whole, rest = divmod(parameters, tensor)
    sizes = [tensor] * whole + ([rest] if rest else [])
    names = (TensorSpec(f"t{number}", (size,), "float32", "parameter") for number, size in enumerate(sizes))
    plan = Plan.of(Manifest(tuple(names)), shards)
    held = (sum(fragment.elements for fragment in plan.shard_fragments(shard)) for shard in range(shards))
    return max(held) * shards / parameters


def is_finer_than_tensors(work: Work, shards: int) -> bool:
    """Whether parts are smaller than what is never cut, so that nobody knows how even they are."""
    return not work.tensor and shards > 1 and work.parameters * 4 < shards * SPLIT_ABOVE_BYTES


def part_parameters(work: Work, shards: int) -> int:
    """Of the largest shard."""
    return math.ceil(work.parameters / shards * imbalance(work.parameters, work.tensor, shards))


def staging_bytes(work: Work, fleet: Fleet) -> int:
    """Given, or enough for every worker and at least what the chart gives."""
    if fleet.staging_bytes is not None:
        return fleet.staging_bytes
    return max(chart_staging_bytes(work, fleet.shards), staging_bytes_for_all(work, fleet))


def chart_staging_bytes(work: Work, shards: int) -> int:
    """Room for 8 contributions in fp32, at least 1 GiB."""
    return max(STAGING_BYTES_MIN, STAGING_BYTES_PER_PARAMETER * part_parameters(work, shards))


def staging_bytes_for_all(work: Work, fleet: Fleet) -> int:
    """So much that every worker can hold a slot at a time, and the lowest slot be leased again."""
    attempts = min(work.slots, fleet.workers - fleet.spare_workers) + 1
    return attempts * math.ceil(part_parameters(work, fleet.shards) * CODEC_BYTES[work.up])


def window(work: Work, fleet: Fleet) -> int:
    """W: attempts that every shard has room for at a time; 0 if not even the initial weights fit."""
    part = part_parameters(work, fleet.shards)
    staging = staging_bytes(work, fleet)
    if 4 * part > staging:
        return 0
    return math.floor(staging / (part * CODEC_BYTES[work.up]))


def state_bytes_per_parameter(delay: int) -> int:
    """w, m, v; a sum for each open step; copies encoded in fp32 and in 16 bits; what a saved state takes."""
    sums, versions = delay + 1, delay + 2
    return 12 + 4 * sums + (4 + 2) * versions + 12 + 4 * delay


def shard_memory_bytes(work: Work, fleet: Fleet) -> int:
    """Of the largest shard, with Python and torch."""
    part = part_parameters(work, fleet.shards)
    return PROCESS_BYTES + staging_bytes(work, fleet) + state_bytes_per_parameter(work.delay) * part


def shard_disk_bytes(work: Work, fleet: Fleet) -> int:
    """For the log of the largest shard; 0 where none is written."""
    if work.durability == "checkpoint":
        return 0
    wanted = DISK_BYTES_MORE + DISK_BYTES_PER_PARAMETER * part_parameters(work, fleet.shards)
    return max(DISK_BYTES_MIN, wanted)


def worker_memory_bytes(work: Work) -> int:
    """Weights and gradients in fp32, one gradient encoded and one version as it came; no activations."""
    return math.ceil(8 * work.parameters + work.up_bytes + work.down_bytes)


def all_reduce_memory_bytes(work: Work) -> int:
    """The same worker, with both moments of its own and one buffer of the gradient."""
    return math.ceil(16 * work.parameters + work.up_bytes)


def coordinator_memory_bytes(work: Work, fleet: Fleet) -> int:
    """With the sums of squares of every attempt that may be live."""
    live = min(window(work, fleet), work.slots)
    return COORDINATOR_BYTES + COORDINATOR_BYTES_PER_SQUARE * live * work.blocks


def shard_log_bytes(work: Work) -> int:
    """Of all shards together, in a step: the mean gradient in fp32."""
    return 0 if work.durability == "checkpoint" else 4 * work.parameters


def coordinator_log_bytes(work: Work) -> int:
    """In a step."""
    return LOG_BYTES_PER_BLOCK * work.blocks + LOG_BYTES_PER_SLOT * work.slots
