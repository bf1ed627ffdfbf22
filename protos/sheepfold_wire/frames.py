"""Frames of the bulk calls: a header, then pieces of raw payload.

Each frame is the protobuf encoding of `PushFrame` or `PullFrame` of shard.proto, but a chunk's bytes are
placed and found by position, so that a tensor is never copied through a message object. Any protobuf
client reads and writes the same frames (tests compare the two byte for byte).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import xxhash

from sheepfold_wire import messages
from sheepfold_wire.convert import from_proto, to_proto
from sheepfold_wire.errors import BadFrame, ChunkChecksumMismatch
from sheepfold_wire.pooling import BufferPool
from sheepfold_wire.v1 import shard_pb2

CHUNK_BYTES = 1 << 20
"""Payload bytes per frame; see server/DECISIONS.md for the measurement behind it."""

MESSAGE_BYTES_MAX = 8 << 20
"""Bound of every gRPC message of ours, both ways; never unlimited."""

RANGES_MAX = 10_000
"""Of one part, apart from each other: what comes in more pieces is meant to do harm."""

Buffer = bytes | bytearray | memoryview

_TAG_HEADER = 0x0A  # field 1, length-delimited
_TAG_CHUNK = 0x12  # field 2, length-delimited
_TAG_OFFSET = 0x08  # field 1, varint
_TAG_CHECKSUM = 0x11  # field 2, fixed64
_TAG_DATA = 0x1A  # field 3, length-delimited
_TAG_END = 0x18  # field 3, varint


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of payload at byte `offset`; `data` is a view into the received message."""

    offset: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class InRegion:
    """In place of a push's chunks: the payload lies in the region of that number."""

    region: int


@dataclass(frozen=True, slots=True)
class Written:
    """In place of a pull's chunks: the payload, of this XXH3-64, was written to the region asked for."""

    checksum: int


def payload_digest(payload: Buffer) -> bytes:
    """XXH3-128 of a part's payload: two pushes of one attempt must agree in it."""
    return xxhash.xxh3_128_digest(payload)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(frame: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(frame) or shift > 63:
            raise BadFrame(f"frame of {len(frame)} bytes ends inside a number at byte {at}")
        byte = frame[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def push_header_frame(header: messages.PushHeader) -> bytes:
    return bytes(shard_pb2.PushFrame(header=to_proto(header)).SerializeToString())


def pull_header_frame(header: messages.PullHeader) -> bytes:
    return bytes(shard_pb2.PullFrame(header=to_proto(header)).SerializeToString())


def pull_end_frame(version: int) -> bytes:
    return bytes(shard_pb2.PullFrame(end_version=version).SerializeToString())


def push_region_frame(region: int) -> bytes:
    return bytes(shard_pb2.PushFrame(region=region).SerializeToString())


def pull_region_frame(checksum: int) -> bytes:
    return bytes(shard_pb2.PullFrame(region_checksum=checksum).SerializeToString())


def chunk_frame(offset: int, data: Buffer) -> bytes:
    """One chunk as bytes of the wire: the only copy of the payload on the sending side."""
    checksum = xxhash.xxh3_64_intdigest(data).to_bytes(8, "little")
    place = bytes([_TAG_OFFSET]) + _varint(offset) if offset else b""
    prefix = place + bytes([_TAG_CHECKSUM]) + checksum + bytes([_TAG_DATA]) + _varint(len(data))
    return b"".join((bytes([_TAG_CHUNK]), _varint(len(prefix) + len(data)), prefix, data))


def chunk_frames(
    payload: Buffer, chunk_bytes: int = CHUNK_BYTES, ranges: Iterable[range] | None = None
) -> Iterator[bytes]:
    """The payload as frames, or only these ranges of its bytes; in order of offset, none for nothing."""
    view = memoryview(payload).cast("B")
    for piece in (range(len(view)),) if ranges is None else ranges:
        for offset in range(piece.start, piece.stop, chunk_bytes):
            yield chunk_frame(offset, view[offset : min(offset + chunk_bytes, piece.stop)])


def read_push_frame(frame: Buffer) -> messages.PushHeader | Chunk | InRegion:
    """A frame of a push; raises BadFrame, ChunkChecksumMismatch."""
    view = memoryview(frame)
    if len(view) and view[0] == _TAG_CHUNK:
        return _read_chunk(view)
    message = _parse(shard_pb2.PushFrame, frame)
    match message.WhichOneof("frame"):
        case "header":
            return from_proto(messages.PushHeader, message.header)
        case "region":
            return InRegion(int(message.region))
    raise BadFrame("a frame of a push is neither header, chunk nor region")


def read_pull_frame(frame: Buffer) -> messages.PullHeader | Chunk | Written | int:
    """A frame of a pull: header, chunk, word of a region, or the version of the last frame.

    Raises as read_push_frame.
    """
    view = memoryview(frame)
    if len(view) and view[0] == _TAG_CHUNK:
        return _read_chunk(view)
    message = _parse(shard_pb2.PullFrame, frame)
    match message.WhichOneof("frame"):
        case "header":
            return from_proto(messages.PullHeader, message.header)
        case "end_version":
            return int(message.end_version)
        case "region_checksum":
            return Written(int(message.region_checksum))
    raise BadFrame("a frame of a pull is neither header, chunk, region nor end")


def _parse(kind: Any, frame: Buffer) -> Any:
    try:
        return kind.FromString(bytes(frame))
    except Exception as error:
        raise BadFrame(f"frame of {len(frame)} bytes is not a {kind.__name__}: {error}") from None


def _read_chunk(view: memoryview) -> Chunk:
    length, at = _read_varint(view, 1)
    if at + length != len(view):
        raise BadFrame(f"chunk announces {length} bytes, {len(view) - at} arrived")
    offset, checksum, data = 0, None, None
    while at < len(view):
        tag, at = view[at], at + 1
        if tag == _TAG_OFFSET:
            offset, at = _read_varint(view, at)
        elif tag == _TAG_CHECKSUM and at + 8 <= len(view):
            checksum, at = int.from_bytes(view[at : at + 8], "little"), at + 8
        elif tag == _TAG_DATA:
            size, at = _read_varint(view, at)
            if at + size > len(view):
                raise BadFrame(
                    f"chunk at offset {offset} announces {size} bytes of data, {len(view) - at} arrived"
                )
            data, at = view[at : at + size], at + size
        else:
            raise BadFrame(f"unknown or truncated field {tag >> 3} in a chunk")
    if data is None or checksum is None:
        raise BadFrame(f"chunk at offset {offset} lacks its {'data' if data is None else 'checksum'}")
    found = xxhash.xxh3_64_intdigest(data)
    if found != checksum:
        raise ChunkChecksumMismatch(
            f"chunk at offset {offset} of {len(data)} bytes has XXH3 {found:016x}, sent as {checksum:016x}; "
            "send it again"
        )
    return Chunk(offset, data)


class PartBuffer:
    """Collects the chunks of one part, in any order, into one buffer of the announced length."""

    def __init__(self, payload_bytes: int, pool: BufferPool) -> None:
        """Raises BadFrame for a negative length."""
        if payload_bytes < 0:
            raise BadFrame(f"the header announces {payload_bytes} bytes of payload; give 0 or more")
        self.payload = pool.take(payload_bytes)
        self._starts: list[int] = []
        self._ends: list[int] = []
        """Of the ranges that have come, in order; none touches the next."""

    @property
    def filled(self) -> int:
        """Bytes that have come."""
        return sum(self._ends) - sum(self._starts)

    @property
    def prefix(self) -> int:
        """Bytes that have come from the first one on, without a gap."""
        return self._ends[0] if self._starts[:1] == [0] else 0

    def add(self, chunk: Chunk) -> None:
        """Raises BadFrame for no bytes, bytes that have come already, or too many; writes nothing then."""
        first, end = chunk.offset, chunk.offset + len(chunk.data)
        at = bisect_right(self._starts, first)
        room = (self._ends[at - 1] if at else 0, [*self._starts[at : at + 1], len(self.payload)][0])
        if not room[0] <= first < end <= room[1] or len(self._starts) > RANGES_MAX:
            raise BadFrame(
                f"chunk covers bytes {first} to {end} of a part of {len(self.payload)}, where those from "
                f"{room[0]} to {room[1]} are to come, and {len(self._starts)} ranges of it have"
            )
        self.payload[first:end] = chunk.data
        self._note(at, first, end)

    def _note(self, at: int, first: int, end: int) -> None:
        """A range has come, before those from `at` on; one that touches another becomes one with it."""
        self._starts.insert(at, first)
        self._ends.insert(at, end)
        for left in (at, at - 1):
            if 0 <= left < len(self._starts) - 1 and self._ends[left] == self._starts[left + 1]:
                del self._ends[left], self._starts[left + 1]

    @contextmanager
    def whole(self) -> Iterator[bytearray]:
        """To be filled by other means than chunks; full afterwards. Raises BadFrame if some have come."""
        if self.filled:
            raise BadFrame(f"a region is named after {self.filled} bytes of the part; send one or the other")
        yield self.payload
        self._starts, self._ends = [0], [len(self.payload)]

    def finish(self) -> bytearray:
        """The whole payload; raises BadFrame if bytes are missing."""
        if self.filled != len(self.payload):
            raise BadFrame(
                f"the stream ended after {self.filled} of {len(self.payload)} bytes; send the part again"
            )
        return self.payload
