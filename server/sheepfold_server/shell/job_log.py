"""The coordinator's log of one job, or none if it has no directory."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from sheepfold_server.core.records import Books, CheckpointKept, CoordinatorRecord
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_server.storage.log.segment import make_directory, sync_directory
from sheepfold_server.storage.log.values import Values

log = logging.getLogger(__name__)

VALUES: Values[CoordinatorRecord] = Values(get_args(CoordinatorRecord))
SEGMENT_BYTES = 4 << 20
BURIED = "deleted"
"""Folder beside `jobs`, of logs that are about to be removed."""


class JobLog:
    """A record is durable when `append` returns."""

    def __init__(self, directory: Path | None, job: str) -> None:
        self._directory = directory
        self._books: tuple[int, int] | None = None
        """(version, number of the record) of the newest books."""
        self._log = None if directory is None else RecordLog(directory, f"job {job}", SEGMENT_BYTES)

    def read(self) -> Iterator[CoordinatorRecord]:
        """Every record in order, before the first append. Raises LogError."""
        if self._log is not None:
            for found in self._log.read():
                record = VALUES.decode(found.text)
                self._note(record, found.header.sequence)
                yield record

    def read_back(self) -> Iterator[CoordinatorRecord]:
        """Every record that was appended before this call, while others are. Raises LogError."""
        found = iter(()) if self._log is None else self._log.read_back()
        return (VALUES.decode(each.text) for each in found)

    def set_synced(self, is_synced: bool) -> None:
        """Whether a record is on the disk when `append` returns, or with the system."""
        if self._log is not None:
            self._log.is_synced = is_synced

    def append(self, record: CoordinatorRecord) -> None:
        """Raises OSError. Once a checkpoint is kept, what stands before its books is forgotten."""
        if self._log is None:
            return
        self._note(record, self._log.append(VALUES.encode(record)))
        if isinstance(record, CheckpointKept) and self._books is not None:
            version, number = self._books
            if version == record.kept.version:
                self._forget_before(number)

    def _forget_before(self, number: int) -> None:
        """What fails here costs room only: the record is written."""
        assert self._log is not None
        try:
            self._log.forget_before(number)
        except OSError as error:
            log.warning("%s: nothing is forgotten: %s", self._directory, error)

    def _note(self, record: CoordinatorRecord, number: int) -> None:
        if isinstance(record, Books):
            self._books = record.ledger.version, number

    def remove(self) -> None:
        """Of a job that was refused: there is nothing to keep."""
        if self._log is not None and self._directory is not None:
            self._log.close()
            shutil.rmtree(self._directory, ignore_errors=True)

    def bury(self, root: Path, lineage: str) -> None:
        """Of a job that was deleted: out of `jobs` in one move, since half a log is a damaged one. Raises
        OSError."""
        if self._log is None or self._directory is None:
            return
        self._log.close()
        grave = root / BURIED / lineage
        make_directory(grave.parent)
        self._directory.rename(grave)
        sync_directory(self._directory.parent)
        shutil.rmtree(grave, ignore_errors=True)


def clear_buried(root: Path) -> None:
    """What a process that died in between has left."""
    shutil.rmtree(root / BURIED, ignore_errors=True)
