"""sheepfold_server.shell.transfers: bytes pushed ahead of a part."""

from __future__ import annotations

import pytest

from sheepfold_server.shell.transfers import AheadPart
from sheepfold_wire.errors import AheadGone, PushInProgress
from sheepfold_wire.frames import Chunk
from sheepfold_wire.pooling import BufferPool

POOL = BufferPool(64)


def with_bytes(first: int, data: bytes) -> AheadPart:
    ahead = AheadPart()
    ahead.add(Chunk(first, memoryview(data)), 8, POOL)
    return ahead


def test_what_was_brought_is_taken_once_and_whole() -> None:
    buffer = with_bytes(4, b"efgh").take(4)
    assert buffer is not None
    buffer.add(Chunk(0, memoryview(b"abcd")))
    assert buffer.finish() == b"abcdefgh"


@pytest.mark.parametrize("claimed", [3, 5])
def test_another_count_of_bytes_is_gone(claimed: int) -> None:
    with pytest.raises(AheadGone, match=f"{claimed} bytes were pushed ahead of the part, 4 of them"):
        with_bytes(4, b"efgh").take(claimed)


def test_bytes_that_come_after_the_part_was_taken_find_no_room() -> None:
    """Also of an attempt that has ended: nobody would free them."""
    ahead = with_bytes(4, b"efgh")
    assert ahead.take(0) is None
    with pytest.raises(AheadGone, match="send it whole"):
        ahead.add(Chunk(0, memoryview(b"abcd")), 8, POOL)


def test_one_call_at_a_time_brings_bytes_of_a_part() -> None:
    ahead = AheadPart()
    with ahead.stream(), pytest.raises(PushInProgress, match="send these after them"), ahead.stream():
        pass
    with ahead.stream():
        pass
