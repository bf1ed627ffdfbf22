"""One file of a log: a page that says what it belongs to, then records, then room that is not used yet.

A file that is no longer needed is used again under another name: its old records carry another generation
and are not taken for new ones.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import xxhash

from sheepfold_server.storage.log.errors import LogCorrupt, LogMismatch
from sheepfold_server.storage.log.records import ALIGNMENT, HEADER_BYTES, Header, decode_header, marker
from sheepfold_wire.frames import Buffer

PAGE_BYTES = 4096
FORMAT = 2
READ_BYTES = 8 << 20
ERRORS_OF_A_LOST_FILE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
"""Of a disk, and of a file system that keeps checksums."""
_MAGIC = b"SHEEPLOG"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """First page of a segment."""

    format: int
    belongs_to: str
    """Job, shard, lineage, numeric fingerprint: whatever must be equal for the log to be of use."""
    number: int
    """Place among the segments."""
    first_sequence: int
    previous: int
    """Checksum of the newest record before this segment; 0 for the first."""
    generation: int
    boot_id: str
    """Of the machine's start in which the segment was begun: pages that were not synced end with it."""
    is_synced: bool = False
    """Every record was on the disk before the next was begun."""


@dataclass(frozen=True, slots=True)
class Found:
    """A record of a segment that was read."""

    header: Header
    text: str
    path: Path
    payload_offset: int


def boot_id() -> str:
    """Which start of the machine this is; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def new_generation() -> int:
    return secrets.randbits(64)


def encode_page(header: SegmentHeader) -> bytes:
    """Raises ValueError if what it belongs to is too long for a page."""
    text = json.dumps(asdict(header), separators=(",", ":")).encode()
    body = _MAGIC + len(text).to_bytes(4, "little") + text
    page = body + xxhash.xxh3_64_digest(body)
    if len(page) > PAGE_BYTES:
        raise ValueError(f"the header of a log segment has {len(page)} bytes, {PAGE_BYTES} are its room")
    return page.ljust(PAGE_BYTES, b"\0")


def decode_page(page: bytes, path: Path) -> SegmentHeader:
    """Raises LogCorrupt, LogMismatch."""
    length = int.from_bytes(page[8:12], "little")
    body, checksum = page[: 12 + length], page[12 + length : 20 + length]
    if not page.startswith(_MAGIC) or length > PAGE_BYTES - 20 or xxhash.xxh3_64_digest(body) != checksum:
        raise LogCorrupt(
            f"{path}: its first {PAGE_BYTES} bytes are no header of a log segment as it was written "
            f"(expected {_MAGIC!r} and checksum {xxhash.xxh3_64_hexdigest(body)}, found {page[:8]!r} and "
            f"{checksum.hex()}); restore the file, or begin from a checkpoint in an empty directory"
        )
    fields = json.loads(body[12:])
    if fields["format"] != FORMAT:
        raise LogMismatch(
            f"{path} has format {fields['format']}, this version reads format {FORMAT}; use the version that "
            "wrote it"
        )
    return SegmentHeader(**fields)


def read_page(path: Path) -> SegmentHeader:
    """Raises LogCorrupt, LogMismatch."""
    with _SegmentFile(path) as segment:
        return decode_page(segment.read(0, PAGE_BYTES), path)


def read_records(path: Path, head: SegmentHeader, end_sequence: int | None) -> Iterator[Found]:
    """The records of a segment, in order, up to number `end_sequence` (excluded) if later segments say so.

    Without that, the first bytes that are no good record end it: a record that was being written when the
    process died. If a good one follows, something else has happened: LogCorrupt. Pages of another start of
    the machine that were not synced may be missing anywhere, so there the first bad one ends it too. A
    warning tells of a record that is cut.

    Payloads are read, and checked, where they could end it: in the newest record, and wherever pages may be
    missing. Elsewhere a record was whole before the next was begun, and `read_payload` checks what is used.
    """
    may_lack_pages = head.boot_id != boot_id() and not head.is_synced
    with _SegmentFile(path) as segment:
        at, sequence, previous = PAGE_BYTES, head.first_sequence, head.previous
        while end_sequence is None or sequence < end_sequence:
            found = segment.record(at, head.generation, sequence, previous)
            if isinstance(found, Found) and (
                may_lack_pages or not segment.is_followed(at, found.header, end_sequence)
            ):
                found = segment.with_payload(found)
            if isinstance(found, str):
                end = f"{path}: record {sequence} at byte {at} is not as it was written ({found})"
                _check_end(segment, at, head.generation, sequence, end_sequence, may_lack_pages, end)
                return
            yield found
            at, sequence = found.header.end(at), sequence + 1
            previous = found.header.checksum


class _SegmentFile:
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
        if wrong := _difference("text", header.text_checksum, xxhash.xxh3_64_intdigest(text)):
            return wrong
        return Found(header, text.decode(), self._path, header.payload_at(at))

    def with_payload(self, found: Found) -> Found | str:
        """The same record, or what is wrong with its payload."""
        header = found.header
        checksum = self._checksum(found.payload_offset, header.payload_bytes)
        return _difference("payload", header.payload_checksum, checksum) or found

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
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        while (at := self._place(at, os.SEEK_DATA)) < self.length:
            hole = self._place(at, os.SEEK_HOLE)
            for start in range(at, hole, READ_BYTES):
                yield start, min(hole, start + READ_BYTES + HEADER_BYTES)
            at = hole

    def _place(self, at: int, whence: int) -> int:
        """Where what was written, or a hole in it, begins from `at` on; the length of the file if nowhere."""
        with self._losses_told(at, self.length - at):
            try:
                return os.lseek(self._file.fileno(), at, whence)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return self.length
                if error.errno == errno.EINVAL:  # the file system does not know of holes
                    return at if whence == os.SEEK_DATA else self.length
                raise


def _difference(part: str, expected: int, checksum: int) -> str:
    if checksum == expected:
        return ""
    return f"expected a {part} with checksum {expected:016x}, found {checksum:016x}"


def _check_end(
    segment: _SegmentFile,
    at: int,
    generation: int,
    sequence: int,
    end_sequence: int | None,
    may_lack_pages: bool,
    end: str,
) -> None:
    """Raises LogCorrupt unless the log may end here; `end` is what it ends with."""
    if end_sequence is None:
        later = segment.later_record(at, generation, sequence)
        if later is None or may_lack_pages:
            if later is not None or segment.is_begun(at, generation, sequence):
                log.warning("%s; the log is cut before it: its process or machine died in it", end)
            return
        follows = f"record {later.sequence} follows"
    else:
        follows = f"records up to {end_sequence - 1} are due"
    raise LogCorrupt(
        f"{end}, and {follows}; restore the file from a copy, or begin from a checkpoint in an empty "
        "directory"
    )


def read_payload(found: Found) -> Buffer:
    """The payload, checked. Raises LogCorrupt."""
    payload = bytearray(found.header.payload_bytes)
    with _SegmentFile(found.path) as segment, memoryview(payload) as room:
        checksum = segment.fill(room, found.payload_offset)
    if checksum != found.header.payload_checksum:
        raise LogCorrupt(
            f"{found.path}: the payload of record {found.header.sequence} at byte {found.payload_offset} is "
            f"not as it was written (expected checksum {found.header.payload_checksum:016x}, found "
            f"{checksum:016x}); restore the file from a copy, or begin from a checkpoint in an empty "
            "directory"
        )
    return payload


def create(path: Path, length: int) -> int:
    """A new file with its room on the disk: a descriptor. Raises OSError, leaving nothing behind."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, length)
    except OSError:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd


def make_directory(path: Path) -> None:
    """With those above it that are missing, all of them durable when it returns."""
    missing = [step for step in (path, *path.parents) if not step.exists()]
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for step in missing:
        sync_directory(step.parent)


def sync_directory(path: Path) -> None:
    """Names of files are durable only after this."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
