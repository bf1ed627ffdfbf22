"""The weights of a checkpoint under the model's own names, as one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from sheepfold_server.storage.checkpoints.index import CheckpointIndex
from sheepfold_server.storage.checkpoints.parts import FLOATS, INTEGERS, WEIGHTS
from sheepfold_server.storage.checkpoints.store import CheckpointStore
from sheepfold_wire.manifest import ROW_ELEMENTS

Array = npt.NDArray[Any]


def tensors_of(store: CheckpointStore, index: CheckpointIndex) -> dict[str, Array]:
    """Parameters in fp32 and statistics in fp32 or int64, by name, each of its own shape.

    Needs memory for the whole state of the job and its weights once more. Raises CheckpointCorrupt.
    """
    whole = store.read_part(index, 0, 1)
    plan, manifest = index.plan(1), index.manifest
    pieces: dict[int, list[Array]] = {}
    for fragment in plan.shard_fragments(0):
        start = fragment.first_row * ROW_ELEMENTS
        flat = whole[WEIGHTS].reshape(-1)[start : start + fragment.elements]
        pieces.setdefault(manifest.slices[fragment.slice].tensor, []).append(flat)
    found = {
        manifest.tensors[tensor].name: np.concatenate(flats).reshape(manifest.tensors[tensor].shape)
        for tensor, flats in pieces.items()
    }
    for place in plan.statistics(0):
        spec = manifest.tensors[place.tensor]
        values = whole[INTEGERS if place.is_integer else FLOATS][place.offset : place.offset + place.elements]
        found[spec.name] = values.reshape(spec.shape)
    return found


def write_weights(store: CheckpointStore, index: CheckpointIndex, into: Path) -> int:
    """Writes the file, whole or not at all; returns how many tensors. Raises CheckpointCorrupt, OSError."""
    tensors = tensors_of(store, index)
    aside = into.with_name(f".{into.name}.new")
    metadata = {"format": "pt", "job": index.job, "version": str(index.version), "lineage": index.lineage}
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, aside, metadata)
    aside.replace(into)
    return len(tensors)
