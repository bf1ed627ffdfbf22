"""Arrays out of the files of a checkpoint, by offset."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from sheepfold_server.storage.checkpoints.errors import CheckpointCorrupt
from sheepfold_server.storage.checkpoints.files import Files, read_into
from sheepfold_server.storage.checkpoints.index import CheckpointIndex
from sheepfold_server.storage.checkpoints.parts import (
    APPLIED_STEPS,
    FLOATS,
    INTEGERS,
    WEIGHTS,
    base_name,
    blank,
    check_entries,
    count_of_not_finite,
    row_names,
)
from sheepfold_server.storage.checkpoints.reshard import Copy, row_copies, statistic_copies, step_copies
from sheepfold_server.storage.checkpoints.tensors import (
    CHUNK_BYTES,
    LENGTH_BYTES,
    Entry,
    header_bytes,
    parse_header,
)
from sheepfold_wire.manifest import ROW_ELEMENTS
from sheepfold_wire.plan import Plan

Array = npt.NDArray[Any]


class PartReader:
    """One open file of a part, its header read and compared with the plan. Raises CheckpointCorrupt."""

    def __init__(self, files: Files, file: IO[bytes], path: str, plan: Plan, shard: int) -> None:
        self._files, self._file, self.path = files, file, path
        length = header_bytes(self._bytes(0, LENGTH_BYTES), path)
        text = self._bytes(LENGTH_BYTES, length)
        self.entries = parse_header(text, file.seek(0, os.SEEK_END), path)
        check_entries(self.entries, plan, shard, path)

    def _bytes(self, start: int, length: int) -> bytes:
        found = bytearray(length)
        self._read_into(start, memoryview(found))
        return bytes(found)

    def _read_into(self, start: int, target: memoryview) -> None:
        with self._files.reading(self.path):
            read_into(self._file, start, target, self.path)

    def fill(self, name: str, first: int, target: Array) -> None:
        """Reads as many leading entries of a tensor, from `first` on, as the contiguous `target` has."""
        entry = self.entries[name]
        start = entry.start + first * _bytes_each(entry)
        self._read_into(start, target.reshape(-1).view(np.uint8).data)


def _bytes_each(entry: Entry) -> int:
    """Length of one leading entry: a row, or an element."""
    return entry.dtype.itemsize * (ROW_ELEMENTS if len(entry.shape) == 2 else 1)


class OldParts:
    """The files of one checkpoint, each opened when it is first needed; a context."""

    def __init__(self, files: Files, index: CheckpointIndex) -> None:
        self._files, self._index = files, index
        self._plan = index.plan(index.shard_count)
        self._readers: dict[int, PartReader] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def _reader(self, shard: int) -> PartReader:
        if shard not in self._readers:
            path, expected = self._index.part_path(shard), self._index.files[shard].bytes
            found = self._files.size(path)
            if found != expected:
                raise CheckpointCorrupt(path, f"{expected} bytes", f"{found} bytes")
            file = self._opened.enter_context(self._files.open(path))
            self._readers[shard] = PartReader(self._files, file, path, self._plan, shard)
        return self._readers[shard]

    def whole(self, shard: int) -> dict[str, Array]:
        """The part as it was saved."""
        reader = self._reader(shard)
        arrays = blank(self._plan, shard, reader.entries)
        for name, array in arrays.items():
            reader.fill(name, 0, array)
        return arrays

    def resharded(self, plan: Plan, shard: int) -> dict[str, Array]:
        """The part of a shard of another plan."""
        arrays = blank(plan, shard, self._reader(0).entries)
        for name in row_names(arrays):
            self._copy(name, arrays[name], row_copies(self._plan, plan, shard))
        for name in arrays:
            if base_name(name) in (FLOATS, INTEGERS):
                is_integer = base_name(name) == INTEGERS
                self._copy(name, arrays[name], statistic_copies(self._plan, plan, shard, is_integer))
        self._copy_steps(arrays[APPLIED_STEPS], list(step_copies(self._plan, plan, shard)))
        return arrays

    def _copy(self, name: str, target: Array, copies: Iterable[Copy]) -> None:
        for copy in copies:
            reader = self._reader(copy.old_shard)
            if name not in reader.entries:
                raise CheckpointCorrupt(reader.path, f"{name!r}, as shard 0 has", sorted(reader.entries))
            reader.fill(name, copy.source, target[copy.target : copy.target + copy.count])

    def _copy_steps(self, target: Array, copies: list[Copy]) -> None:
        target[:] = -1
        for old_shard in sorted({copy.old_shard for copy in copies}):
            reader = self._reader(old_shard)
            values = np.zeros(reader.entries[APPLIED_STEPS].shape, np.int64)
            reader.fill(APPLIED_STEPS, 0, values)
            for copy in (copy for copy in copies if copy.old_shard == old_shard):
                value, known = values[copy.source], target[copy.target]
                if known not in (-1, value):
                    raise CheckpointCorrupt(reader.path, f"{known} applied steps as on other shards", value)
                target[copy.target] = value


def check_weights(files: Files, path: str, plan: Plan, shard: int) -> None:
    """Raises CheckpointCorrupt unless a file is the part of this shard with weights that are all finite."""
    with files.open(path) as file:
        reader = PartReader(files, file, path, plan, shard)
        rows = reader.entries[WEIGHTS].shape[0]
        rows_at_once = CHUNK_BYTES // (4 * ROW_ELEMENTS)
        for first in range(0, rows, rows_at_once):
            values = np.empty((min(rows_at_once, rows - first), ROW_ELEMENTS), np.float32)
            reader.fill(WEIGHTS, first, values)
            if bad := count_of_not_finite(values):
                raise CheckpointCorrupt(path, f"finite weights from row {first} on", f"{bad} that are not")
