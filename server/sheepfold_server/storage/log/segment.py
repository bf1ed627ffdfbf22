"""One file of a log: a page that says what it belongs to, then records, then room that is not used yet.

A file that is no longer needed is used again under another name: its old records carry another generation
and are not taken for new ones.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from sheepfold_server.storage.log.errors import LogCorrupt, LogMismatch
from sheepfold_server.storage.log.segment_file import Found, SegmentFile, difference
from sheepfold_wire.frames import Buffer

PAGE_BYTES = 4096
FORMAT = 2
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
    with SegmentFile(path) as segment:
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
    with SegmentFile(path) as segment:
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


def _check_end(
    segment: SegmentFile,
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
    with SegmentFile(found.path) as segment, memoryview(payload) as room:
        checksum = segment.fill(room, found.payload_offset)
    if wrong := difference("payload", found.header.payload_checksum, checksum):
        raise _damaged(found, wrong)
    return payload


def check_payload(found: Found) -> None:
    """That it is as it was written. Raises LogCorrupt."""
    with SegmentFile(found.path) as segment:
        checked = segment.with_payload(found)
    if isinstance(checked, str):
        raise _damaged(found, checked)


def _damaged(found: Found, wrong: str) -> LogCorrupt:
    return LogCorrupt(
        f"{found.path}: the payload of record {found.header.sequence} at byte {found.payload_offset} is not "
        f"as it was written ({wrong}); restore the file from a copy, or begin from a checkpoint in an empty "
        "directory"
    )


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


def sync_file(path: Path) -> None:
    """What others wrote into it is durable after this. Raises OSError that names it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Names of files are durable only after this."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
