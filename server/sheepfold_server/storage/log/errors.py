"""What can be wrong with a log: each says where, what was expected and found, and what helps."""

from __future__ import annotations

from pathlib import Path


class LogError(Exception):
    """The log cannot be used as it is. Nothing of it has been changed."""


class LogCorrupt(LogError):
    """A record in the middle of the log is not as it was written: what follows it cannot be trusted."""


class LogMismatch(LogError):
    """The log is of another job, shard, model, version of the format or numeric fingerprint."""


class RecordNotAppended(OSError):
    """The disk did not take a record. The log is as it was, and appending it again is safe."""

    def __init__(self, directory: Path, sequence: int, error: OSError) -> None:
        super().__init__(
            error.errno,
            f"record {sequence} was not appended to the log in {directory}: expected to write all of it, "
            f"found {error.strerror}; make room on the disk or replace it, then go on",
        )
