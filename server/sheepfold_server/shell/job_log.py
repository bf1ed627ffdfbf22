"""The coordinator's log of one job, or none if it has no directory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from sheepfold_server.core.records import CoordinatorRecord
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_server.storage.log.values import Values

VALUES: Values[CoordinatorRecord] = Values(get_args(CoordinatorRecord))
SEGMENT_BYTES = 4 << 20


class JobLog:
    """A record is durable when `append` returns."""

    def __init__(self, directory: Path | None, job: str) -> None:
        self._directory = directory
        self._log = None if directory is None else RecordLog(directory, f"job {job}", SEGMENT_BYTES)

    def read(self) -> Iterator[CoordinatorRecord]:
        """Every record in order, before the first append. Raises LogError."""
        if self._log is not None:
            for found in self._log.read():
                yield VALUES.decode(found.text)

    def set_synced(self, is_synced: bool) -> None:
        """Whether a record is on the disk when `append` returns, or with the system."""
        if self._log is not None:
            self._log.is_synced = is_synced

    def append(self, record: CoordinatorRecord) -> None:
        """Raises OSError."""
        if self._log is not None:
            self._log.append(VALUES.encode(record))

    def remove(self) -> None:
        """Of a job that was refused: there is nothing to keep."""
        if self._log is not None and self._directory is not None:
            self._log.close()
            shutil.rmtree(self._directory, ignore_errors=True)
