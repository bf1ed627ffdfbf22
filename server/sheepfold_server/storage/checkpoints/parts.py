"""What a shard's part holds: which arrays, of which shapes.

weights, state.0, ..., applied_steps, floats, integers   the state at the checkpoint's version
weights.1, floats.1, integers.1, weights.2, ...      what is pulled of versions 1, 2, ... before it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sheepfold_server.storage.checkpoints.errors import CheckpointCorrupt, CheckpointRefused
from sheepfold_server.storage.checkpoints.tensors import DTYPES, Arrays, Entry
from sheepfold_wire.manifest import ROW_ELEMENTS, ROWS_PER_BLOCK
from sheepfold_wire.plan import Plan

WEIGHTS, APPLIED_STEPS, FLOATS, INTEGERS = "weights", "applied_steps", "floats", "integers"
DENSE = {APPLIED_STEPS: DTYPES["I64"], INTEGERS: DTYPES["I64"], FLOATS: DTYPES["F32"]}
STATE_BUFFERS_MAX = 16


def state_name(buffer: int) -> str:
    """Name of an optimizer state buffer, counted from 0."""
    return f"state.{buffer}"


def older_names(back: int) -> tuple[str, str, str]:
    """Weights, floats and integers of the version `back` steps before the checkpoint's."""
    return f"{WEIGHTS}.{back}", f"{FLOATS}.{back}", f"{INTEGERS}.{back}"


def base_name(name: str) -> str:
    """The name without its number."""
    return name.partition(".")[0]


def row_names(names: Iterable[str]) -> list[str]:
    """Those of `names` that hold rows: weights and state buffers."""
    return sorted(name for name in names if base_name(name) not in DENSE)


def own_tensors(plan: Plan, shard: int) -> tuple[int, ...]:
    """Manifest indices of the parameters with blocks on the shard, ascending: the order of applied_steps."""
    return tuple(sorted({plan.manifest.slices[f.slice].tensor for f in plan.shard_fragments(shard)}))


def blank(plan: Plan, shard: int, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """A part of zeros that has the arrays named."""
    sizes, rows = _dense_sizes(plan, shard), (plan.rows(shard), ROW_ELEMENTS)
    return {
        name: np.zeros(sizes.get(base_name(name), rows), DENSE.get(base_name(name), DTYPES["F32"]))
        for name in names
    }


def _dense_sizes(plan: Plan, shard: int) -> dict[str, int]:
    return {
        APPLIED_STEPS: len(own_tensors(plan, shard)),
        FLOATS: plan.statistic_elements(shard, is_integer=False),
        INTEGERS: plan.statistic_elements(shard, is_integer=True),
    }


def check_arrays(arrays: Arrays) -> None:
    """Raises CheckpointRefused unless `arrays` are a part of some plan with finite weights.

    A checkpoint of weights that are not finite would push the last good one out of retention.
    """
    if fault := _fault({name: (array.dtype, array.shape) for name, array in arrays.items()}):
        raise CheckpointRefused(f"no part of a checkpoint: {fault}")
    if bad := count_of_not_finite(arrays[WEIGHTS]):
        raise CheckpointRefused(f"{bad} weights are not finite: go back to an older version before saving")


def _fault(found: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> str | None:
    """What is wrong with arrays of these dtypes and shapes, or None."""
    older = [name for back in range(1, _versions_before(found) + 1) for name in older_names(back)]
    buffers = max(0, min(len(found) - len(older) - 4, STATE_BUFFERS_MAX))
    wanted = {WEIGHTS, *DENSE, *older, *(state_name(i) for i in range(buffers))}
    if found.keys() != wanted:
        return f"expected {', '.join(sorted(wanted))}, found {', '.join(sorted(found))}"
    rows = found[WEIGHTS][1]
    for name, (dtype, shape) in found.items():
        is_dense = base_name(name) in DENSE
        if dtype != DENSE.get(base_name(name), DTYPES["F32"]):
            return f"{name} is {dtype}"
        if is_dense and len(shape) != 1:
            return f"{name} has shape {shape}, expected one dimension"
        if not is_dense and (shape != rows or shape[1:] != (ROW_ELEMENTS,) or shape[0] % ROWS_PER_BLOCK):
            return f"{name} has shape {shape}, expected whole blocks of rows as in the weights, {rows}"
    return None


def _versions_before(names: Iterable[str]) -> int:
    return sum(name.startswith(f"{WEIGHTS}.") for name in names)


def check_entries(entries: Mapping[str, Entry], plan: Plan, shard: int, file: str) -> None:
    """Raises CheckpointCorrupt unless a file's tensors are the part of this shard in this plan."""
    if fault := _fault({name: (entry.dtype, entry.shape) for name, entry in entries.items()}):
        raise CheckpointCorrupt(file, "the arrays of a part", fault)
    sizes = _dense_sizes(plan, shard)
    wanted = {name: sizes.get(base_name(name), plan.rows(shard)) for name in entries}
    found = {name: entries[name].shape[0] for name in entries}
    if found != wanted:
        raise CheckpointCorrupt(file, f"leading sizes {wanted} as of the plan", found)


def count_of_not_finite(values: npt.NDArray[Any]) -> int:
    """How many are infinite or not a number; looks at a block at a time, to need no second copy."""
    flat = values.reshape(-1)
    step = ROW_ELEMENTS * ROWS_PER_BLOCK
    return sum(int(np.count_nonzero(~np.isfinite(flat[i : i + step]))) for i in range(0, flat.size, step))
