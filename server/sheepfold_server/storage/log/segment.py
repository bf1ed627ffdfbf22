"""One file of a log: a page that says what it belongs to, then records, then room that is not used yet.

A file that is no longer needed is used again under another name: its old records carry another generation
and are not taken for new ones.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from sheepfold_server.storage.log.errors import LogCorrupt, LogMismatch
from sheepfold_server.storage.log.records import ALIGNMENT, HEADER_BYTES, Header, decode_header, marker
from sheepfold_wire.frames import Buffer

PAGE_BYTES = 4096
FORMAT = 1
_MAGIC = b"SHEEPLOG"


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
            f"{path}: its first {PAGE_BYTES} bytes are no header of a log segment as it was written; restore "
            "the file, or begin from a checkpoint in an empty directory"
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
    with path.open("rb") as file:
        return decode_page(file.read(PAGE_BYTES), path)


def read_records(path: Path, head: SegmentHeader, end_sequence: int | None) -> Iterator[Found]:
    """The records of a segment in order, up to `end_sequence` (not included) if later segments say so.

    Without that, the first bytes that are no good record end it: a record that was being written when the
    process died. If a good one follows, something else has happened: LogCorrupt. Pages of another start of
    the machine may be missing anywhere, so there the first bad one ends it too.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, sequence, previous = PAGE_BYTES, head.first_sequence, head.previous
        while end_sequence is None or sequence < end_sequence:
            found = _read_record(data, path, head.generation, at)
            if found is None or found.header.sequence != sequence or found.header.previous != previous:
                _check_end(data, path, head, at, sequence, end_sequence)
                return
            yield found
            at, sequence = found.header.end(at), sequence + 1
            previous = found.header.checksum


def _read_record(data: mmap.mmap, path: Path, generation: int, at: int) -> Found | None:
    header = decode_header(data[at : at + HEADER_BYTES])
    if header is None or header.generation != generation or header.end(at) > len(data):
        return None
    text_at, payload_at = at + HEADER_BYTES, header.payload_at(at)
    text = data[text_at : text_at + header.text_bytes]
    if xxhash.xxh3_64_intdigest(text) != header.text_checksum:
        return None
    with memoryview(data) as view, view[payload_at : payload_at + header.payload_bytes] as payload:
        if xxhash.xxh3_64_intdigest(payload) != header.payload_checksum:
            return None
    return Found(header, text.decode(), path, payload_at)


def _check_end(
    data: mmap.mmap, path: Path, head: SegmentHeader, at: int, sequence: int, end_sequence: int | None
) -> None:
    """Raises LogCorrupt unless the log may end here."""
    if end_sequence is None:
        if head.boot_id != boot_id():
            return
        later = _later_record(data, head.generation, at, sequence)
        if later is None:
            return
        follows = f"record {later.sequence} follows"
    else:
        follows = f"records up to {end_sequence - 1} are due"
    raise LogCorrupt(
        f"{path}: record {sequence} at byte {at} is not as it was written, and {follows}; restore the file "
        "from a copy, or begin from a checkpoint in an empty directory"
    )


def _later_record(data: mmap.mmap, generation: int, at: int, sequence: int) -> Header | None:
    """A good header of the same segment after `at`."""
    sought = marker(generation)
    while (at := data.find(sought, at + 1)) >= 0:
        header = decode_header(data[at : at + HEADER_BYTES])
        if at % ALIGNMENT == 0 and header is not None and header.sequence > sequence:
            return header
    return None


def read_payload(found: Found) -> Buffer:
    """The payload again, checked again. Raises LogCorrupt."""
    with found.path.open("rb") as file:
        file.seek(found.payload_offset)
        payload = file.read(found.header.payload_bytes)
    if xxhash.xxh3_64_intdigest(payload) != found.header.payload_checksum:
        raise LogCorrupt(
            f"{found.path}: the payload of record {found.header.sequence} at byte {found.payload_offset} is "
            "not as it was written; restore the file from a copy"
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
