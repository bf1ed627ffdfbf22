"""The records of a log, in the order they were appended. Reading changes nothing in its directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sheepfold_server.storage.log.errors import LogCorrupt, LogMismatch
from sheepfold_server.storage.log.segment import SegmentHeader, read_page, read_records
from sheepfold_server.storage.log.segment_file import Found

SUFFIX = ".log"

Heads = Sequence[tuple[Path, SegmentHeader]]
"""The segments of a log by their first pages, in their order."""


def read_heads(directory: Path, belongs_to: str | None = None) -> Heads:
    """One that was being made when its process died has no page yet. Raises LogCorrupt.

    LogMismatch for a log of anything but `belongs_to`, where that is given.
    """
    heads = []
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        head = read_page(path)
        if belongs_to not in (None, head.belongs_to):
            raise LogMismatch(
                f"{path} is of {head.belongs_to}, expected is {belongs_to}; give the directory of this one, "
                "or an empty one"
            )
        heads.append((path, head))
    return heads


def read_log(heads: Heads, end_sequence: int | None = None) -> Iterator[Found]:
    """Every record, or those numbered below `end_sequence`, all of which are there. Raises LogCorrupt."""
    after: tuple[int, int] | None = None
    for index, (path, head) in enumerate(heads):
        following = heads[index + 1][1] if index + 1 < len(heads) else None
        if after is not None and (head.first_sequence, head.previous) != after:
            raise LogCorrupt(
                f"{path} continues after record {head.first_sequence - 1}, the segments before it end with "
                f"{after[0] - 1}; restore the missing ones, or begin from a checkpoint in an empty directory"
            )
        after = head.first_sequence, head.previous
        end = end_sequence if following is None else following.first_sequence
        for found in read_records(path, head, end):
            yield found
            after = found.header.sequence + 1, found.header.checksum
