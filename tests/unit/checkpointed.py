"""States of a job, saved as checkpoints, for the tests of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sheepfold_server.storage.checkpoints import CheckpointIndex, CheckpointStore, PartFile, PartId
from sheepfold_server.storage.checkpoints.parts import own_tensors
from sheepfold_wire.manifest import ROW_ELEMENTS, Manifest, TensorSpec
from sheepfold_wire.plan import Plan

Arrays = dict[str, npt.NDArray[Any]]

JOB, LINEAGE = "job-1", "0"
SPLIT_ABOVE = 600_000
MANIFEST = Manifest(
    (
        TensorSpec("embedding", (200, 1030), "float32", "parameter"),
        TensorSpec("bias", (7,), "float32", "parameter"),
        TensorSpec("running_mean", (33,), "float32", "statistic"),
        TensorSpec("batches", (), "int64", "statistic"),
        TensorSpec("fused", (6, 1100), "bfloat16", "parameter", (2, 4)),
        TensorSpec("scale", (), "float32", "parameter"),
        TensorSpec("empty", (0, 4), "float32", "parameter"),
        TensorSpec("running_variance", (5, 5), "float16", "statistic"),
        TensorSpec("counts", (9,), "int32", "statistic"),
        TensorSpec("wide", (70, 1024), "float32", "parameter"),
    )
)


SMALL = Manifest(
    (TensorSpec("bias", (7,), "float32", "parameter"), TensorSpec("batches", (), "int64", "statistic"))
)
"""One block of rows, on the first shard."""


def plan_of(shard_count: int, manifest: Manifest = MANIFEST) -> Plan:
    return Plan.of(manifest, shard_count, SPLIT_ABOVE)


def part_of(plan: Plan, shard: int, seed: int = 0) -> Arrays:
    """What the shard holds of one state of the job, which is the same for any number of shards."""
    rows = {name: np.zeros((plan.rows(shard), ROW_ELEMENTS), np.float32) for name in rows_of()}
    for kind, (_, array) in enumerate(rows.items()):
        for f in plan.shard_fragments(shard):
            piece = plan.manifest.slices[f.slice]
            values = np.random.default_rng([seed, kind, f.slice]).standard_normal(piece.elements, np.float32)
            flat = array[f.first_row : f.first_row + f.rows].reshape(-1)
            flat[: f.elements] = values[f.first_element : f.first_element + f.elements]
    placed = plan.statistics(shard)
    floats = [statistic(plan, seed, place.tensor) for place in placed if not place.is_integer]
    integers = [statistic(plan, seed, place.tensor) for place in placed if place.is_integer]
    steps = [1000 * seed + tensor for tensor in own_tensors(plan, shard)]
    return {
        **rows,
        "applied_steps": np.array(steps, np.int64),
        "floats": np.concatenate([np.empty(0), *floats]).astype(np.float32),
        "integers": np.concatenate([np.empty(0, np.int64), *integers]),
    }


def rows_of() -> tuple[str, ...]:
    return "weights", "state.0", "state.1"


def statistic(plan: Plan, seed: int, tensor: int) -> npt.NDArray[np.int64]:
    numbers = np.random.default_rng([seed, tensor, 99])
    return numbers.integers(-(2**40), 2**40, plan.manifest.tensors[tensor].elements)


def save(
    store: CheckpointStore,
    version: int = 1,
    shard_count: int = 2,
    manifest: Manifest = MANIFEST,
    **other: Any,
) -> CheckpointIndex:
    """A checkpoint of the state with seed `version`."""
    lineage = other.get("lineage", LINEAGE)
    files = save_parts(store, version, shard_count, manifest, lineage)
    texts = {"manifest_json": manifest.to_json(), "manifest_digest": manifest.digest}
    index = index_of(version=version, shard_count=shard_count, files=files, **texts, **other)
    store.write_index(index)
    return index


def save_parts(
    store: CheckpointStore, version: int, shard_count: int, manifest: Manifest, lineage: str = LINEAGE
) -> tuple[PartFile, ...]:
    return tuple(
        store.save_part(
            PartId(lineage, version, shard, shard_count, incarnation=5),
            part_of(plan_of(shard_count, manifest), shard, version),
            {"job": JOB},
        )
        for shard in range(shard_count)
    )


def index_of(**values: Any) -> CheckpointIndex:
    standard: dict[str, Any] = {
        "job": JOB,
        "lineage": LINEAGE,
        "applied_steps": 1,
        "term": 1,
        "created_at": 1.75e9,
        "manifest_json": MANIFEST.to_json(),
        "manifest_digest": MANIFEST.digest,
        "config_json": "{}",
        "split_above_bytes": SPLIT_ABOVE,
        "numeric_fingerprint": "f",
        "kernel": "eager",
        "ledger": {"cursor": [1, 2.5, None], "seed": 2**63},
    }
    return CheckpointIndex(**{**standard, **values})


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def assert_holds(store: CheckpointStore, index: CheckpointIndex, version: int) -> None:
    """The checkpoint verifies and is the state with seed `version`."""
    store.verify(index)
    assert index.version == version
    assert_parts(store, index)


def assert_parts(store: CheckpointStore, index: CheckpointIndex) -> None:
    """Its parts are the state with its version as seed."""
    for shard in range(index.shard_count):
        expected = part_of(index.plan(index.shard_count), shard, index.version)
        assert_same(store.read_part(index, shard, index.shard_count), expected)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob("tmp-*"))
