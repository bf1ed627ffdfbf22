"""The file of a segment, as it is read: its records one by one, and what stands where none should."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import xxhash

from sheepfold_server.storage.log.errors import LogCorrupt
from sheepfold_server.storage.log.records import ALIGNMENT, HEADER_BYTES, Header, decode_header, marker

READ_BYTES = 8 << 20
ERRORS_OF_A_LOST_FILE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
"""Of a disk, and of a file system that keeps checksums."""


@dataclass(frozen=True, slots=True)
class Found:
    """A record of a segment that was read."""

    header: Header
    text: str
    path: Path
    payload_offset: int


class SegmentFile:
    """The file of a segment to read; a context. Raises LogCorrupt where the disk has lost some of it.

    Not mapped into memory: a disk that fails would end the process by a signal, without a word.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self.length = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, at: int, count: int) -> bytes:
        """Fewer at the end of the file."""
        pieces = []
        while count > 0 and (piece := self._piece(at, count)):
            pieces.append(piece)
            at, count = at + len(piece), count - len(piece)
        return b"".join(pieces)

    def _piece(self, at: int, count: int) -> bytes:
        with self._losses_told(at, count):
            return os.pread(self._file.fileno(), min(count, READ_BYTES), at)

    @contextmanager
    def _losses_told(self, at: int, count: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in ERRORS_OF_A_LOST_FILE:
                raise
            raise LogCorrupt(
                f"{self._path}: expected {count} bytes from byte {at} on, found {error}; restore the file "
                "from a copy, or begin from a checkpoint in an empty directory"
            ) from error

    def _checksum(self, at: int, count: int) -> int:
        checksum = xxhash.xxh3_64()
        while count > 0 and (piece := self._piece(at, count)):
            checksum.update(piece)
            at, count = at + len(piece), count - len(piece)
        return checksum.intdigest()

    def fill(self, room: memoryview, at: int) -> int:
        """Checksum of what stands from a byte of the file on, read into `room`; the file may end before."""
        checksum, done = xxhash.xxh3_64(), 0
        while done < len(room):
            piece = room[done : done + READ_BYTES]
            with self._losses_told(at + done, len(room) - done):
                count = os.preadv(self._file.fileno(), [piece], at + done)
            if not count:
                break
            checksum.update(piece[:count])
            done += count
        return checksum.intdigest()

    def record(self, at: int, generation: int, sequence: int, previous: int) -> Found | str:
        """The record at a byte of the file, or what is wrong with it, its payload aside."""
        header = decode_header(self.read(at, HEADER_BYTES))
        if header is None or header.generation != generation:
            return "expected a header under its checksum, found other bytes"
        if header.end(at) > self.length:
            return f"expected a file of at least {header.end(at)} bytes, found {self.length}"
        if (header.sequence, header.previous) != (sequence, previous):
            found = f"record {header.sequence} after {header.previous:016x}"
            return f"expected record {sequence} after {previous:016x}, found {found}"
        text = self.read(header.text_at(at), header.text_bytes)
        if wrong := difference("text", header.text_checksum, xxhash.xxh3_64_intdigest(text)):
            return wrong
        return Found(header, text.decode(), self._path, header.payload_at(at))

    def with_payload(self, found: Found) -> Found | str:
        """The same record, or what is wrong with its payload."""
        header = found.header
        checksum = self._checksum(found.payload_offset, header.payload_bytes)
        return difference("payload", header.payload_checksum, checksum) or found

    def is_followed(self, at: int, header: Header, end_sequence: int | None) -> bool:
        """Whether another record was begun after the one at `at`, here or in a later segment."""
        if end_sequence is not None:
            return True
        following = decode_header(self.read(header.end(at), HEADER_BYTES))
        return following is not None and (following.generation, following.previous) == (
            header.generation,
            header.checksum,
        )

    def is_begun(self, at: int, generation: int, sequence: int) -> bool:
        """Whether a record was begun there: its marker tells, or its number where the marker is damaged."""
        start, number = marker(generation), sequence.to_bytes(8, "little")
        found = self.read(at, len(start) + len(number))
        return found.startswith(start) or (sequence > 0 and found.endswith(number))

    def later_record(self, at: int, generation: int, sequence: int) -> Header | None:
        """A good header of the same generation after `at`."""
        sought = marker(generation)
        for start, end in self._written_from(at + ALIGNMENT):
            data = self.read(start, end - start)
            place = -1
            while (place := data.find(sought, place + 1)) >= 0:
                header = decode_header(data[place : place + HEADER_BYTES])
                if (start + place) % ALIGNMENT == 0 and header is not None and header.sequence > sequence:
                    return header
        return None

    def _written_from(self, at: int) -> Iterator[tuple[int, int]]:
        """(first byte, the one after the last) of pieces that may have been written, each of which reaches a
        header's length into the next: what never was written reads as zeros, slowly."""
        fd = self._file.fileno()
        # What the system reads ahead would pass for written, and so would a page of which we read a byte.
        with suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        while (at := self._place(at, os.SEEK_DATA)) < self.length:
            hole = max(at + 1, self._place(at, os.SEEK_HOLE))
            for start in range(at, hole, READ_BYTES):
                yield start, min(hole, start + READ_BYTES + HEADER_BYTES)
            at = hole

    def _place(self, at: int, whence: int) -> int:
        """Where what was written, or a hole in it, begins from `at` on; the length of the file if nowhere."""
        with self._losses_told(at, self.length - at):
            try:
                return os.lseek(self._file.fileno(), at, whence)
            except OSError as error:
                if error.errno in ERRORS_OF_A_LOST_FILE:
                    raise
                if error.errno == errno.ENXIO:
                    return self.length
                return at if whence == os.SEEK_DATA else self.length  # it does not know of holes


def difference(part: str, expected: int, checksum: int) -> str:
    """What is wrong with a part of a record; "" for nothing."""
    if checksum == expected:
        return ""
    return f"expected a {part} with checksum {expected:016x}, found {checksum:016x}"
