"""A plan as people look at it: which shard holds how much, of each tensor and in all."""

from __future__ import annotations

from collections.abc import Iterable

from sheepfold_server.dashboard import models
from sheepfold_wire.plan import FP32_BYTES, INT64_BYTES, Plan

Held = dict[int, tuple[int, int]]
"""(elements, bytes) by shard."""


def model_answer(plan: Plan | None, first: int, limit: int) -> models.Model:
    """The model with `limit` of its tensors from number `first` on; nothing of a job that has none yet."""
    if plan is None:
        return models.Model(digest="", parameters=0, shards=[], tensors_total=0, tensors=[])
    held, manifest = _held(plan), plan.manifest
    slices = [0] * len(manifest.tensors)
    for piece in manifest.slices:
        slices[piece.tensor] += 1
    return models.Model(
        digest=manifest.digest,
        parameters=manifest.parameter_elements,
        shards=_answer(_total(held, plan.shard_count)),
        tensors_total=len(held),
        tensors=[
            models.Tensor(
                name=tensor.name,
                kind=tensor.kind,
                shape=list(tensor.shape),
                dtype=tensor.dtype,
                slices=slices[number],
                shards=_answer(held[number]),
            )
            for number, tensor in enumerate(manifest.tensors[first : first + limit], first)
        ],
    )


def _held(plan: Plan) -> list[Held]:
    """By tensor."""
    found: list[Held] = [{} for _ in plan.manifest.tensors]
    for shard in range(plan.shard_count):
        for fragment in plan.shard_fragments(shard):
            tensor = plan.manifest.slices[fragment.slice].tensor
            _add(found[tensor], shard, fragment.elements, FP32_BYTES)
        for place in plan.statistics(shard):
            size = INT64_BYTES if place.is_integer else FP32_BYTES
            _add(found[place.tensor], shard, place.elements, size)
    return found


def _add(held: Held, shard: int, elements: int, size: int) -> None:
    known, known_bytes = held.get(shard, (0, 0))
    held[shard] = known + elements, known_bytes + elements * size


def _total(tensors: Iterable[Held], shard_count: int) -> Held:
    total: Held = dict.fromkeys(range(shard_count), (0, 0))
    for held in tensors:
        for shard, (elements, size) in held.items():
            total[shard] = total[shard][0] + elements, total[shard][1] + size
    return total


def _answer(held: Held) -> list[models.Held]:
    return [models.Held(shard=shard, elements=n, bytes=size) for shard, (n, size) in sorted(held.items())]
