"""One record: a header of 64 bytes, a text, a payload; every byte is under a checksum.

Header, little endian: marker (4 bytes and the segment's generation, 8), sequence number (8), checksum of the
header before it (8), lengths of text (4) and payload (8), checksums of text and payload (8 each), and of all
that (8). Checksums are XXH3-64. Records begin at multiples of 64 bytes, payloads of a page and more at
multiples of 4,096, where whole pages are copied.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
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
        return _aligned(at + HEADER_BYTES + self.text_bytes, PAGE if self.payload_bytes >= PAGE else 1)

    def end(self, at: int) -> int:
        """Where the record after one that begins at byte `at` begins."""
        return _aligned(self.payload_at(at) + self.payload_bytes, ALIGNMENT)


def _aligned(at: int, to: int) -> int:
    return -(-at // to) * to


def marker(generation: int) -> bytes:
    """The first bytes of every record of a segment."""
    return MAGIC + _CHECKSUM.pack(generation)


def encode_header(
    generation: int, sequence: int, previous: int, text: bytes, payload: Sequence[Buffer]
) -> tuple[bytes, Header]:
    """(its bytes, the header). The payload is the pieces one after the other."""
    checksum_of = xxhash.xxh3_64()
    for piece in payload:
        checksum_of.update(piece)
    header = Header(
        generation,
        sequence,
        previous,
        len(text),
        sum(memoryview(piece).nbytes for piece in payload),
        xxhash.xxh3_64_intdigest(text),
        checksum_of.intdigest(),
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
