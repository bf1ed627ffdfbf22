"""sheepfold_wire.frames: protobuf's own encoding, written and read by position."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

import sheepfold_wire.messages as m
from sheepfold_wire.convert import to_proto
from sheepfold_wire.errors import BadFrame, ChunkChecksumMismatch
from sheepfold_wire.frames import (
    CHUNK_BYTES,
    MESSAGE_BYTES_MAX,
    RANGES_MAX,
    Chunk,
    InRegion,
    PartBuffer,
    Written,
    chunk_frame,
    chunk_frames,
    payload_digest,
    pull_end_frame,
    pull_header_frame,
    pull_region_frame,
    push_header_frame,
    push_region_frame,
    read_pull_frame,
    read_push_frame,
)
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.pooling import BufferPool
from sheepfold_wire.v1 import shard_pb2

FACTS = m.Facts(samples=512, weight=70_000.5, base_version=7, present=b"\x03", loss=0.25)
HEADER = m.PushHeader(
    "bert", AttemptId(2, 9), 1, 4, 2, "m" * 64, "p" * 64, "bf16", 2048, payload_digest(b"x"), FACTS
)
READERS: list[Callable[[bytes], Any]] = [read_push_frame, read_pull_frame]
OFFSETS = st.one_of(st.integers(0, 1 << 40), st.sampled_from([0, 127, 128, 16_383, 16_384, 2**63 - 1]))


def chunk_message(offset: int, data: bytes) -> shard_pb2.Chunk:
    return shard_pb2.Chunk(offset=offset, checksum=xxhash.xxh3_64_intdigest(data), data=data)


@given(OFFSETS, st.binary(min_size=1, max_size=300))
def test_a_chunk_frame_is_byte_for_byte_what_protobuf_writes(offset: int, data: bytes) -> None:
    message = chunk_message(offset, data)
    assert chunk_frame(offset, data) == shard_pb2.PushFrame(chunk=message).SerializeToString()
    assert chunk_frame(offset, data) == shard_pb2.PullFrame(chunk=message).SerializeToString()


@given(OFFSETS, st.binary(max_size=300))
def test_what_protobuf_writes_is_read_in_place(offset: int, data: bytes) -> None:
    message = shard_pb2.PushFrame(chunk=chunk_message(offset, data))
    if not data:
        message.chunk.data = b""  # protobuf leaves an empty field out: such a chunk says nothing
        with pytest.raises(BadFrame, match="lacks its data"):
            read_push_frame(message.SerializeToString())
        return
    frame = message.SerializeToString()
    chunk = read_push_frame(frame)
    assert isinstance(chunk, Chunk)
    assert (chunk.offset, bytes(chunk.data)) == (offset, data)
    assert chunk.data.obj is frame, "a view of the message, not a copy"


def test_headers_and_the_end_are_protobuf_messages() -> None:
    assert push_header_frame(HEADER) == shard_pb2.PushFrame(header=to_proto(HEADER)).SerializeToString()
    assert read_push_frame(push_header_frame(HEADER)) == HEADER
    pull = m.PullHeader(0, 2048)
    assert read_pull_frame(pull_header_frame(pull)) == pull
    assert [read_pull_frame(pull_end_frame(version)) for version in (0, 1, 300)] == [0, 1, 300]
    assert pull_end_frame(0) == shard_pb2.PullFrame(end_version=0).SerializeToString() != b""


def test_a_payload_is_cut_into_chunks_that_fit_a_message() -> None:
    payload = bytes(range(251)) * (2 * CHUNK_BYTES // 251 + 5)
    frames = list(chunk_frames(payload))
    assert len(frames) == 3
    assert max(map(len, frames)) < MESSAGE_BYTES_MAX
    buffer = PartBuffer(len(payload), BufferPool(64))
    for frame in frames:
        chunk = read_push_frame(frame)
        assert isinstance(chunk, Chunk)
        buffer.add(chunk)
    assert buffer.finish() == payload


def test_an_empty_payload_has_no_chunks() -> None:
    assert list(chunk_frames(b"")) == []
    assert PartBuffer(0, BufferPool(64)).finish() == b""


@pytest.mark.parametrize("read", READERS)
@given(data=st.data())
@settings(max_examples=150)
def test_one_flipped_bit_never_passes_for_the_chunk_that_was_sent(
    read: Callable[[bytes], Any], data: st.DataObject
) -> None:
    """The checksum covers the data; a flipped offset is caught when the chunk finds its place."""
    payload = data.draw(st.binary(min_size=1, max_size=40))
    frame = bytearray(chunk_frame(5, payload))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    try:
        found = read(bytes(frame))
    except (BadFrame, ChunkChecksumMismatch):
        return
    assert not isinstance(found, Chunk) or bytes(found.data) != payload or found.offset != 5


def test_altered_data_is_a_checksum_mismatch_that_names_place_and_length() -> None:
    frame = bytearray(chunk_frame(1024, b"abcd"))
    frame[-1] ^= 1
    with pytest.raises(ChunkChecksumMismatch, match=r"offset 1024 of 4 bytes.*send it again"):
        read_push_frame(bytes(frame))


@pytest.mark.parametrize("read", READERS)
@given(data=st.data())
def test_a_truncated_chunk_is_a_bad_frame(read: Callable[[bytes], Any], data: st.DataObject) -> None:
    frame = chunk_frame(77, data.draw(st.binary(min_size=1, max_size=200)))
    with pytest.raises((BadFrame, ChunkChecksumMismatch)):
        read(frame[: data.draw(st.integers(0, len(frame) - 1))])


@pytest.mark.parametrize("read", READERS)
@given(garbage=st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda tail: b"\x12" + tail)))
@settings(max_examples=300)
@example(garbage=b"")
@example(garbage=b"\x12")
@example(garbage=b"\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80")
@example(garbage=b"\x12\x02\x11\x00")
@example(garbage=b"\x0a\xff\xff\xff\xff\x0f")
@example(garbage=b"\x0a\x03\x0a\x01\xff")
def test_garbage_is_refused_and_nothing_else(read: Callable[[bytes], Any], garbage: bytes) -> None:
    """Whatever arrives from outside, the only answers are a frame or one of our two refusals."""
    with suppress(BadFrame, ChunkChecksumMismatch):
        read(garbage)


@pytest.mark.parametrize("read", READERS)
@given(data=st.data())
def test_a_header_with_altered_bytes_is_a_header_or_a_bad_frame(
    read: Callable[[bytes], Any], data: st.DataObject
) -> None:
    frame = bytearray(push_header_frame(HEADER))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadFrame, ChunkChecksumMismatch):
        read(bytes(frame))


def test_frames_of_no_kind_are_bad_frames() -> None:
    for frame in (b"", pull_region_frame(3)):
        with pytest.raises(BadFrame, match="neither header, chunk nor region"):
            read_push_frame(frame)
    with pytest.raises(BadFrame, match="neither header, chunk, region nor end"):
        read_pull_frame(b"")


@given(st.integers(1, 2**63 - 1), st.integers(0, 2**64 - 1))
def test_word_of_a_region_is_a_protobuf_message(region: int, checksum: int) -> None:
    assert push_region_frame(region) == shard_pb2.PushFrame(region=region).SerializeToString()
    assert read_push_frame(push_region_frame(region)) == InRegion(region)
    assert pull_region_frame(checksum) == shard_pb2.PullFrame(region_checksum=checksum).SerializeToString()
    assert read_pull_frame(pull_region_frame(checksum)) == Written(checksum)


def test_payload_comes_by_chunks_or_by_a_region_and_not_by_both() -> None:
    buffer = PartBuffer(8, BufferPool(64))
    buffer.add(Chunk(0, memoryview(b"abcd")))
    with pytest.raises(BadFrame, match="after 4 bytes"), buffer.whole():
        pass
    buffer = PartBuffer(8, BufferPool(64))
    with buffer.whole() as payload:
        payload[:] = b"abcdefgh"
    with pytest.raises(BadFrame, match="covers bytes 0 to 4"):
        buffer.add(Chunk(0, memoryview(b"abcd")))
    assert buffer.finish() == b"abcdefgh"


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([(0, b"abcd"), (0, b"abcd")], "covers bytes 0 to 4 of a part of 8, where those from 4 to 8 are"),
        ([(0, b"abcd"), (3, b"defg")], "from 4 to 8 are to come"),
        ([(4, b"efgh"), (0, b"abcde")], "from 0 to 4 are to come"),
        ([(4, b"ef"), (5, b"f")], "from 6 to 8 are to come"),
        ([(0, b"abcdefghi")], "covers bytes 0 to 9 of a part of 8"),
        ([(2**63, b"a")], "from 0 to 8 are to come"),
        ([(3, b"")], "covers bytes 3 to 3"),
    ],
)
def test_overlaps_repetitions_and_too_many_bytes_are_refused(
    chunks: list[tuple[int, bytes]], said: str
) -> None:
    buffer, *made = (
        PartBuffer(8, BufferPool(64)),
        *(Chunk(offset, memoryview(data)) for offset, data in chunks),
    )
    for chunk in made[:-1]:
        buffer.add(chunk)
    with pytest.raises(BadFrame, match=said):
        buffer.add(made[-1])
    assert len(buffer.payload) == 8, "the buffer never grows"


@given(st.binary(min_size=1, max_size=60), st.data())
def test_chunks_make_the_payload_in_any_order(payload: bytes, data: st.DataObject) -> None:
    cuts = sorted({0, len(payload), *data.draw(st.lists(st.integers(0, len(payload))))})
    pieces = data.draw(st.permutations(list(itertools.pairwise(cuts))))
    buffer, come = PartBuffer(len(payload), BufferPool(64)), set[int]()
    for first, end in pieces:
        buffer.add(Chunk(first, memoryview(payload)[first:end]))
        come |= set(range(first, end))
        assert buffer.filled == len(come)
        assert buffer.prefix == next(at for at in range(len(payload) + 1) if at not in come)
    assert buffer.finish() == payload


def test_more_pieces_than_any_client_sends_are_refused() -> None:
    buffer = PartBuffer(3 * RANGES_MAX, BufferPool(64))
    for at in range(RANGES_MAX + 1):
        buffer.add(Chunk(2 * at, memoryview(b"x")))
    with pytest.raises(BadFrame, match=f"{RANGES_MAX + 1} ranges of it have"):
        buffer.add(Chunk(2 * RANGES_MAX + 2, memoryview(b"x")))


def test_missing_bytes_are_refused_with_both_numbers() -> None:
    buffer = PartBuffer(8, BufferPool(64))
    buffer.add(Chunk(0, memoryview(b"abc")))
    with pytest.raises(BadFrame, match="after 3 of 8 bytes"):
        buffer.finish()


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(BadFrame, match="announces -1 bytes"):
        PartBuffer(-1, BufferPool(64))
