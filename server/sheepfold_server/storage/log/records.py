"""One record: a header of 64 bytes, a payload, a text; every byte is under a checksum.

Header, little endian: marker (4 bytes and the segment's generation, 8), sequence number (8), checksum of the
header before it (8), lengths of text (4) and payload (8), checksums of text and payload (8 each), and of all
that (8). Checksums are XXH3-64. Records begin at multiples of 64 bytes, payloads of a page and more at
multiples of 4,096, where whole pages are copied. A payload stands before its text, so that it can be written
while the text is not known yet; the header is written last, and makes the record.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import xxhash

from sheepfold_wire.frames import Buffer

MAGIC = b"SFRC"
ALIGNMENT = 64
PAGE = 4096
_HEADER = struct.Struct("<4sQQQIQQQ")
_CHECKSUM = struct.Struct("<Q")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a record before its text and payload are read."""

    generation: int
    sequence: int
    previous: int
    """Checksum of the record before, or of the segment's header."""
    text_bytes: int
    payload_bytes: int
    text_checksum: int
    payload_checksum: int
    checksum: int = 0

    def payload_at(self, at: int) -> int:
        """Where the payload of a record that begins at byte `at` of its file begins."""
        return payload_at(at, self.payload_bytes)

    def text_at(self, at: int) -> int:
        """Where its text begins."""
        return self.payload_at(at) + self.payload_bytes

    def end(self, at: int) -> int:
        """Where the record after one that begins at byte `at` begins."""
        return record_end(at, self.payload_bytes, self.text_bytes)


def payload_at(at: int, payload_bytes: int) -> int:
    """Where a payload of that length begins, in a record that begins at byte `at`."""
    return _aligned(at + HEADER_BYTES, PAGE if payload_bytes >= PAGE else 1)


def record_end(at: int, payload_bytes: int, text_bytes: int) -> int:
    """Where the record after one that begins at byte `at` begins."""
    return _aligned(payload_at(at, payload_bytes) + payload_bytes + text_bytes, ALIGNMENT)


def _aligned(at: int, to: int) -> int:
    return -(-at // to) * to


def marker(generation: int) -> bytes:
    """The first bytes of every record of a segment."""
    return MAGIC + _CHECKSUM.pack(generation)


def encode_header(
    generation: int, sequence: int, previous: int, text: bytes, payload_bytes: int, payload_checksum: int
) -> tuple[bytes, Header]:
    """(its bytes, the header)."""
    header = Header(
        generation,
        sequence,
        previous,
        len(text),
        payload_bytes,
        xxhash.xxh3_64_intdigest(text),
        payload_checksum,
    )
    packed = _HEADER.pack(
        MAGIC,
        generation,
        sequence,
        previous,
        header.text_bytes,
        header.payload_bytes,
        header.text_checksum,
        header.payload_checksum,
    )
    checksum = xxhash.xxh3_64_intdigest(packed)
    return packed + _CHECKSUM.pack(checksum), _with_checksum(header, checksum)


def decode_header(data: Buffer) -> Header | None:
    """None for bytes that are no header, or not as they were written."""
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        return None
    packed = bytes(view[: _HEADER.size])
    (checksum,) = _CHECKSUM.unpack_from(view, _HEADER.size)
    magic, *fields = _HEADER.unpack(packed)
    if magic != MAGIC or xxhash.xxh3_64_intdigest(packed) != checksum:
        return None
    return _with_checksum(Header(*fields), checksum)


def _with_checksum(header: Header, checksum: int) -> Header:
    return Header(
        header.generation,
        header.sequence,
        header.previous,
        header.text_bytes,
        header.payload_bytes,
        header.text_checksum,
        header.payload_checksum,
        checksum,
    )
