"""The segments of a log, and the one process that appends to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sheepfold_server.storage.log.errors import RecordNotAppended
from sheepfold_server.storage.log.payload import Payload, write
from sheepfold_server.storage.log.reading import SUFFIX, read_heads, read_log
from sheepfold_server.storage.log.records import encode_header, payload_at, record_end
from sheepfold_server.storage.log.segment import (
    FORMAT,
    PAGE_BYTES,
    SegmentHeader,
    boot_id,
    create,
    encode_page,
    make_directory,
    new_generation,
    sync_directory,
    sync_file,
)
from sheepfold_server.storage.log.segment_file import Found
from sheepfold_wire.frames import Buffer

SPARES_MAX = 8
"""Files kept to be used again: writing into pages that are cached is ten times as fast as into fresh ones."""


@dataclass(slots=True)
class _Segment:
    path: Path
    number: int
    first_sequence: int
    bytes: int


class RecordLog:
    """One directory of segments. Every process begins a segment of its own; what it finds it never changes.

    `append` is for one thread at a time. With `is_synced` a record is on the disk when it returns, as far as
    the disk honours fsync; without, it survives the process, and not the machine.
    """

    def __init__(self, directory: Path, belongs_to: str, segment_bytes: int, is_synced: bool = False) -> None:
        self.directory = directory
        self._belongs_to, self._segment_bytes, self.is_synced = belongs_to, segment_bytes, is_synced
        make_directory(directory)
        self._segments: list[_Segment] = []
        self._spares: list[Path] = []
        self._fd = -1
        self._at = self._generation = 0
        self._is_segment_synced = is_synced
        self._sequence, self._previous = 0, 0
        self._ahead: Payload | None = None
        self._is_read = False

    @property
    def next_sequence(self) -> int:
        """Number of the record that is appended next."""
        return self._sequence

    # --- reading --------------------------------------------------------------------------------------

    def read(self) -> Iterator[Found]:
        """Every record, once, before the first append. Raises LogCorrupt, LogMismatch."""
        for leftover in (*self.directory.glob("*.new"), *self.directory.glob("*.spare")):
            leftover.unlink()
        heads = read_heads(self.directory, self._belongs_to)
        self._segments = [
            _Segment(path, head.number, head.first_sequence, path.stat().st_size) for path, head in heads
        ]
        for _, head in heads[:1]:
            self._sequence, self._previous = head.first_sequence, head.previous
        for found in read_log(heads):
            yield found
            self._sequence, self._previous = found.header.sequence + 1, found.header.checksum
        for path, head in heads[-1:]:
            if head.is_synced:  # but for the last record, if its process died before that
                sync_file(path)
        self._is_read = True

    def read_back(self) -> Iterator[Found]:
        """Every record that was appended before this call; others may be appended, but not forgotten, while
        they are read. Raises LogCorrupt."""
        return read_log(read_heads(self.directory, self._belongs_to), self._sequence)

    # --- appending ------------------------------------------------------------------------------------

    def payload_ahead(self, size: int) -> Payload:
        """The next record's payload, of `size` bytes, to be written while it is made; `append` takes it then.

        Whatever else is appended before, or asked for here, has its place. Raises OSError.
        """
        assert self._is_read, "a log is read before it is appended to"
        self._ahead = None
        self._make_room(size, 0)
        self._ahead = Payload(self._fd, payload_at(self._at, size))
        return self._ahead

    def append(self, text: str, payload: Sequence[Buffer] = (), ahead: Payload | None = None) -> int:
        """The record's number. Raises RecordNotAppended, an OSError; the call can be repeated then.

        The pieces of `payload` must not change until it returns. They are not written once more if they
        stand in the log already, as all that `ahead` has written.
        """
        assert self._is_read, "a log is read before it is appended to"
        try:
            return self._append(text.encode(), payload, ahead)
        except OSError as error:
            raise RecordNotAppended(self.directory, self._sequence, error) from error

    def _append(self, text: bytes, payload: Sequence[Buffer], ahead: Payload | None) -> int:
        size = sum(memoryview(piece).nbytes for piece in payload)
        is_there = ahead is not None and ahead is self._ahead and ahead.bytes == size
        self._ahead = None
        is_moved = self._make_room(size, len(text))
        if ahead is None or not is_there or is_moved:
            ahead = Payload(self._fd, payload_at(self._at, size))
            for piece in payload:
                ahead.write(piece)
        header, facts = encode_header(
            self._generation, self._sequence, self._previous, text, size, ahead.checksum
        )
        if size:
            write(self._fd, text, facts.text_at(self._at))
            write(self._fd, header, self._at)
        else:
            write(self._fd, header + text, self._at)
        if self.is_synced:
            os.fdatasync(self._fd)
        self._at = facts.end(self._at)
        self._sequence, self._previous = self._sequence + 1, facts.checksum
        return facts.sequence

    def _make_room(self, payload_bytes: int, text_bytes: int) -> bool:
        """Whether that took another segment."""
        end = record_end(self._at, payload_bytes, text_bytes)
        is_other_level = self._is_segment_synced != self.is_synced
        if self._fd >= 0 and not is_other_level and end <= self._segments[-1].bytes:
            return False
        self._begin_segment(record_end(PAGE_BYTES, payload_bytes, text_bytes))
        return True

    def _begin_segment(self, needed: int) -> None:
        """Room for many records, or for one that is larger; under its name only once its page is written."""
        number = self._segments[-1].number + 1 if self._segments else 0
        fresh = self.directory / f"{number:08d}.new"
        length = max(self._segment_bytes, needed)
        fd = self._reuse(fresh, length)
        if fd < 0:
            fresh.unlink(missing_ok=True)
            fd = create(fresh, length)
        generation = new_generation()
        page = SegmentHeader(
            FORMAT,
            self._belongs_to,
            number,
            self._sequence,
            self._previous,
            generation,
            boot_id(),
            self.is_synced,
        )
        path = fresh.with_suffix(SUFFIX)
        try:
            write(fd, encode_page(page), 0)
            os.fsync(fd)
            fresh.rename(path)
        except OSError:
            os.close(fd)
            raise
        self.close()  # whatever happens: a restart would take the new one for what follows
        try:
            sync_directory(self.directory)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._at, self._generation = fd, PAGE_BYTES, generation
        self._is_segment_synced = self.is_synced
        self._segments.append(_Segment(path, number, self._sequence, os.fstat(fd).st_size))

    def _reuse(self, path: Path, length: int) -> int:
        """A file that is no longer needed, if it is long enough."""
        while self._spares:
            spare = self._spares.pop()
            if spare.stat().st_size >= length:
                spare.rename(path)
                return os.open(path, os.O_RDWR | os.O_CLOEXEC)
            spare.unlink()
        return -1

    def forget_before(self, sequence: int) -> None:
        """Records before that are no longer needed; whole segments of them make room for new ones."""
        while len(self._segments) > 1 and self._segments[1].first_sequence <= sequence:
            path = self._segments[0].path
            spare = path.with_suffix(".spare")
            path.rename(spare)  # the oldest first, also after one that failed: the rest stays without a gap
            del self._segments[0]
            if len(self._spares) < SPARES_MAX:
                self._spares.append(spare)
            else:
                spare.unlink()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
