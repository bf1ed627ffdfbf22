"""The weights of a version under the model's own names, as one safetensors file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from sheepfold_server.storage.checkpoints.index import CheckpointIndex
from sheepfold_server.storage.checkpoints.parts import FLOATS, INTEGERS, WEIGHTS
from sheepfold_server.storage.checkpoints.store import CheckpointStore
from sheepfold_server.storage.checkpoints.tensors import Arrays
from sheepfold_wire.manifest import ROW_ELEMENTS
from sheepfold_wire.plan import Plan

Array = npt.NDArray[Any]


def tensors_of(plan: Plan, parts: Sequence[Arrays]) -> dict[str, Array]:
    """Parameters in fp32 and statistics in fp32 or int64, by name, each of its own shape.

    `parts`: weights, floats and integers of each shard of the plan.
    """
    manifest, found = plan.manifest, dict[str, Array]()
    pieces: dict[int, dict[tuple[int, int], Array]] = {}
    for shard, part in enumerate(parts):
        for fragment in plan.shard_fragments(shard):
            start = fragment.first_row * ROW_ELEMENTS
            place = fragment.slice, fragment.first_element
            flat = part[WEIGHTS].reshape(-1)[start : start + fragment.elements]
            pieces.setdefault(manifest.slices[fragment.slice].tensor, {})[place] = flat
        for held in plan.statistics(shard):
            spec = manifest.tensors[held.tensor]
            values = part[INTEGERS if held.is_integer else FLOATS][held.offset : held.offset + held.elements]
            found[spec.name] = values.reshape(spec.shape)
    for tensor, flats in pieces.items():
        spec = manifest.tensors[tensor]
        found[spec.name] = np.concatenate([flats[place] for place in sorted(flats)]).reshape(spec.shape)
    return found


def write_checkpoint(store: CheckpointStore, index: CheckpointIndex, into: Path) -> int:
    """As `write_weights`. Needs memory for the whole state of the job and its weights once more.

    Raises CheckpointCorrupt, OSError.
    """
    tensors = tensors_of(index.plan(1), [store.read_part(index, 0, 1)])
    return write_weights(tensors, into, index.job, index.version, index.lineage)


def write_weights(tensors: dict[str, Array], into: Path, job: str, version: int, lineage: str) -> int:
    """Writes the file, whole or not at all; returns how many tensors. Raises OSError."""
    aside = into.with_name(f".{into.name}.new")
    metadata = {"format": "pt", "job": job, "version": str(version), "lineage": lineage}
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, aside, metadata)
    aside.replace(into)
    return len(tensors)
