"""Both ends of shared memory, joined within one process: who may hand it over, and that nothing stays."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import xxhash

import sheepfold_wire.messages as m
from sheepfold.transport import TransportError
from sheepfold.transport import shared_memory as client
from sheepfold.transport.shared_memory import NotShared, Region, SharedMemory, hand_over
from sheepfold_server.shell import shared_memory as server
from sheepfold_server.shell.shared_memory import Regions
from sheepfold_wire.errors import (
    BadFrame,
    ChunkChecksumMismatch,
    Overloaded,
    PreconditionError,
    RegionGone,
    StepClosed,
)
from sheepfold_wire.regions import KEY_BYTES, abstract, boot_id, make_region

DEADLINE_SECONDS = 20.0
SIZE = 70_000
SHARD = m.ShardAddress(0, "127.0.0.1:7", 5)


@pytest.fixture
def desk() -> Iterator[Regions]:
    regions = Regions()
    regions.start()
    yield regions
    regions.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_SECONDS:.0f} s: {what}"
        time.sleep(0.002)


def said_by(desk: Regions, sent: bytes | None, descriptors: list[int]) -> str:
    """The answer to whoever sends that; None: nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(DEADLINE_SECONDS)
        connection.connect(abstract(desk.invite().socket))
        if sent is not None:
            socket.send_fds(connection, [sent], descriptors)
        return connection.recv(1000).decode()


# --- the shard's end ----------------------------------------------------------------------------------------


def test_payloads_go_both_ways(desk: Regions) -> None:
    region = hand_over(desk.invite(), SIZE)
    up, down, copy = os.urandom(SIZE), os.urandom(SIZE), bytearray(SIZE)
    region.write(up)
    seen = bytearray()
    desk.read(region.number, copy, seen.extend)
    assert up == copy == seen
    checksum = xxhash.xxh3_64_intdigest(down)
    assert desk.write(region.number, down) == checksum
    assert region.payload(SIZE, checksum) == down
    region.close()


def test_payload_is_read_in_place_and_its_region_not_lent_meanwhile(desk: Regions) -> None:
    """Whoever pulled holds a view: the next pull must not write over it."""
    memory, down = shared(desk), os.urandom(SIZE)
    used(memory)
    with memory.lent(SHARD, SIZE) as region:
        assert region is not None
        first = region.number
        view = region.payload(SIZE, desk.write(first, down))
    second = used(memory)
    assert second not in (None, first)
    assert view == down
    view.release()
    del view
    assert used(memory) in (first, second)
    memory.close()


def test_payload_outlives_its_region(desk: Regions) -> None:
    """The shard may go, and the worker close, before the weights are in the model."""
    before, memory, down = open_files(), shared(desk), os.urandom(SIZE)
    used(memory)
    with memory.lent(SHARD, SIZE) as region:
        assert region is not None
        view = region.payload(SIZE, desk.write(region.number, down))
    memory.close()
    del region
    until(lambda: desk.count == 0, "the region is given up")
    assert view == down
    view.release()
    del view
    assert open_files() == before


def test_payload_of_another_call_is_told_by_its_checksum(desk: Regions) -> None:
    region = hand_over(desk.invite(), SIZE)
    checksum = desk.write(region.number, bytes(SIZE))
    desk.write(region.number, b"\1" * SIZE)
    with pytest.raises(ChunkChecksumMismatch, match=f"shared memory of {SIZE} bytes has XXH3"):
        region.payload(SIZE, checksum)
    region.close()


def test_key_is_good_for_one_region(desk: Regions) -> None:
    reply = desk.invite()
    region = hand_over(reply, SIZE)
    with pytest.raises(NotShared, match="it refuses: the key is none of this shard's, was used"):
        hand_over(reply, SIZE)
    region.close()


@pytest.mark.parametrize("key", [bytes(KEY_BYTES), b"x", bytes(KEY_BYTES + 1)])
def test_key_of_nobody_is_refused(desk: Regions, key: bytes) -> None:
    before, memory = open_files(), make_region(SIZE)
    desk.invite()
    assert "the key is none of this shard's" in said_by(desk, key, [memory])
    os.close(memory)
    assert desk.count == 0
    until(lambda: open_files() == before, "the memory refused is closed")


def test_key_ends_by_itself() -> None:
    now = [100.0]
    desk = Regions(clock=lambda: now[0])
    desk.start()
    reply = desk.invite()
    now[0] += server.KEY_SECONDS
    with pytest.raises(NotShared, match="is 10 s old"):
        hand_over(reply, SIZE)
    desk.close()


def test_keys_are_bounded_and_others_come_once_they_end() -> None:
    now = [100.0]
    desk = Regions(clock=lambda: now[0])
    desk.start()
    for _ in range(server.KEYS_MAX):
        desk.invite()
    with pytest.raises(Overloaded, match="64 keys for memory"):
        desk.invite()
    now[0] += server.KEY_SECONDS
    assert desk.invite().key
    desk.close()


def test_shard_that_never_starts_holds_no_socket_and_names_none() -> None:
    """Another of its addresses may be taken."""
    desk = Regions()
    assert desk.invite() == m.ShareReply("", "", b"")
    desk.close()


def unsealed() -> int:
    memory = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, SIZE)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return memory


def test_memory_that_may_shrink_and_no_memory_at_all_are_refused(desk: Regions) -> None:
    memory = unsealed()
    assert "sealed against growing, shrinking" in said_by(desk, desk.invite().key, [memory])
    os.close(memory)
    assert "a region is one memfd" in said_by(desk, desk.invite().key, [])
    assert desk.count == 0


def test_memory_of_other_users_is_refused() -> None:
    desk = Regions(owners=frozenset({os.geteuid() + 1}))
    desk.start()
    with pytest.raises(NotShared, match=f"the memory of user {os.geteuid()} is not taken"):
        hand_over(desk.invite(), SIZE)
    desk.close()


def test_who_says_nothing_is_dismissed(desk: Regions, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    monkeypatch.setattr(server, "SILENT_SECONDS", 0.05)
    assert "no region came within" in said_by(desk, None, [])
    until(lambda: open_files() == before, "its connection is closed")


def test_those_who_say_nothing_do_not_fill_the_shard(desk: Regions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENT_MAX", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
        first.connect(abstract(desk.invite().socket))
        assert "1 others have come" in said_by(desk, None, [])


def test_regions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REGIONS_MAX", 1)
    desk = Regions()
    desk.start()
    region = hand_over(desk.invite(), SIZE)
    with pytest.raises(NotShared, match="this shard holds 1 regions"):
        hand_over(desk.invite(), SIZE)
    region.close()
    until(lambda: desk.count == 0, "the first region is given up")
    hand_over(desk.invite(), SIZE).close()
    desk.close()


def test_payload_longer_than_its_region_moves_no_byte(desk: Regions) -> None:
    region = hand_over(desk.invite(), SIZE)
    region.write(bytes(SIZE))
    copy = bytearray(b"\x01" * (SIZE + 1))
    with pytest.raises(BadFrame, match=f"has {SIZE} bytes, the payload {SIZE + 1}"):
        desk.read(region.number, copy, len)
    assert copy == b"\x01" * (SIZE + 1)
    with pytest.raises(BadFrame):
        desk.write(region.number, copy)
    assert bytes(region.memory) == bytes(SIZE)
    region.close()


def test_region_ends_with_its_connection_and_leaves_no_file(desk: Regions) -> None:
    before = open_files()
    region = hand_over(desk.invite(), SIZE)
    assert (desk.count, open_files()) == (1, before + 4)
    region.close()
    until(lambda: desk.count == 0, "the region is given up")
    until(lambda: open_files() == before, "its files are closed")
    with pytest.raises(RegionGone, match="holds no such region"):
        desk.read(region.number, bytearray(SIZE), len)


def test_region_whose_worker_says_more_is_given_up(desk: Regions) -> None:
    region = hand_over(desk.invite(), SIZE)
    region._connection.send(b"more")
    until(lambda: desk.count == 0, "the region is given up")
    until(lambda: not region.is_held, "the worker sees it")
    region.close()


def test_shard_that_stops_lets_go_of_all(desk: Regions) -> None:
    before = open_files()
    other = Regions()
    other.start()
    region = hand_over(other.invite(), SIZE)
    assert region.is_held
    other.close()
    assert not region.is_held
    region.close()
    assert open_files() == before


# --- the worker's end ---------------------------------------------------------------------------------------


def shared(desk: Regions) -> SharedMemory:
    return SharedMemory(lambda _: desk.invite(), {})


def used(memory: SharedMemory, size: int = SIZE, address: m.ShardAddress = SHARD) -> int | None:
    """The region of one call that ends well; None: it went in frames."""
    with memory.lent(address, size) as region:
        return None if region is None else region.number


def test_second_payload_of_a_size_gets_a_region_and_later_ones_the_same(desk: Regions) -> None:
    memory = shared(desk)
    assert used(memory) is None
    first = used(memory)
    assert first
    assert used(memory) == first
    assert used(memory, SIZE + 1) is None
    memory.close()


def test_calls_under_way_at_once_have_each_its_own_and_a_third_none(desk: Regions) -> None:
    memory = shared(desk)
    used(memory)
    with memory.lent(SHARD, SIZE) as first, memory.lent(SHARD, SIZE) as second:
        assert first
        assert second
        assert first.number != second.number
        assert used(memory) is None
    assert desk.count == 2
    memory.close()
    until(lambda: desk.count == 0, "the regions are given up")


def test_unused_region_of_another_size_makes_room(desk: Regions) -> None:
    memory = shared(desk)
    for size in (SIZE, SIZE + 1, SIZE + 2):
        used(memory, size)
        assert used(memory, size)
    until(lambda: desk.count == client.REGIONS_MAX, "one of the regions is given up")
    memory.close()


def test_region_whose_call_failed_is_not_used_again(desk: Regions) -> None:
    """The shard may still write to it, long after its caller has given up."""
    memory = shared(desk)
    used(memory)
    first = used(memory)
    with pytest.raises(TransportError), memory.lent(SHARD, SIZE):
        raise TransportError("DEADLINE_EXCEEDED")
    assert used(memory) not in (None, first)
    with pytest.raises(StepClosed), memory.lent(SHARD, SIZE):
        raise StepClosed("step 3 is closed")
    assert used(memory)
    until(lambda: desk.count == 1, "the regions of failed calls are given up")
    memory.close()


def packed(memory: SharedMemory, size: int = SIZE) -> memoryview:
    """A part of noise in memory that is shared."""
    assert memory.room(SHARD, size) is None, "not before there was one of the size"
    room = memory.room(SHARD, size)
    assert room is not None
    room[:] = os.urandom(size)
    return room


def test_part_is_handed_over_where_it_was_packed(desk: Regions) -> None:
    memory = shared(desk)
    part, copy = packed(memory), bytearray(SIZE)
    with memory.lent(SHARD, SIZE, part) as region:
        assert region is not None
        assert region.holds(part)
        region.write(part)
        desk.read(region.number, copy, len)
    assert copy == part
    again = memory.room(SHARD, SIZE)
    assert again is not None
    assert again.obj is part.obj
    assert desk.count == 1
    memory.close()


def test_memory_that_is_packed_into_is_lent_to_nobody_else(desk: Regions) -> None:
    """A pull would be written over the next gradient."""
    memory = shared(desk)
    part = packed(memory)
    with memory.lent(SHARD, SIZE) as region, memory.lent(SHARD, SIZE) as other:
        assert region is not None
        assert other is not None
        assert not region.holds(part)
        assert not other.holds(part)
    memory.close()


def test_part_whose_push_failed_is_copied_and_the_next_is_packed_elsewhere(desk: Regions) -> None:
    """The shard may still read what it did not answer."""
    memory = shared(desk)
    part, copy = packed(memory), bytearray(SIZE)
    with pytest.raises(TransportError), memory.lent(SHARD, SIZE, part):
        raise TransportError("DEADLINE_EXCEEDED")
    with memory.lent(SHARD, SIZE, part) as region:
        assert region is not None
        assert not region.holds(part)
        region.write(part)
        desk.read(region.number, copy, len)
    assert copy == part
    other = memory.room(SHARD, SIZE)
    assert other is not None
    assert other.obj is not part.obj
    memory.close()


def test_part_that_was_packed_for_a_shard_that_is_gone_is_whole_and_goes_in_frames() -> None:
    desk = Regions()
    desk.start()
    memory = shared(desk)
    part = packed(memory)
    before = bytes(part)
    desk.close()
    with memory.lent(SHARD, SIZE, part) as region:
        assert region is None
    assert memory.room(SHARD, SIZE) is None
    memory.close()
    assert part == before


def test_environment_turns_it_off(desk: Regions) -> None:
    memory = SharedMemory(lambda _: desk.invite(), {client.VARIABLE: "0"})
    assert [used(memory), used(memory)] == [None, None]
    assert [memory.room(SHARD, SIZE), memory.room(SHARD, SIZE)] == [None, None]


def refusing(error: Exception) -> client.Ask:
    def ask(address: m.ShardAddress) -> m.ShareReply:
        raise error

    return ask


REFUSALS: dict[str, tuple[client.Ask, int]] = {
    "it takes no memory": (refusing(PreconditionError("the server does not know this call")), logging.INFO),
    "it is on another host": (lambda _: m.ShareReply("another", "none", bytes(16)), logging.INFO),
    "or takes no memory": (lambda _: m.ShareReply("", "", b""), logging.INFO),
    "its socket cannot be reached": (
        lambda _: m.ShareReply(boot_id(), "sheepfold-nobody", bytes(16)),
        logging.INFO,
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_stands_in_the_way_is_said_once_for_each_process_of_a_shard(
    why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sheepfold")
    ask, level = REFUSALS[why]
    memory = SharedMemory(ask, {})
    assert [used(memory) for _ in range(5)] == [None] * 5
    (record,) = caplog.records
    assert record.getMessage().startswith("payloads of shard 0 go over gRPC: ")
    assert why in record.getMessage()
    assert record.levelno == level
    for _ in range(2):
        used(memory, address=m.ShardAddress(0, SHARD.address, 6))
    assert len(caplog.records) == 2


def test_system_without_such_memory_is_said_with_its_reason(
    desk: Regions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    memory = shared(desk)
    assert [used(memory) for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert f"no memory of {SIZE} bytes can be made for it" in record.getMessage()


@pytest.mark.parametrize("error", [TransportError("UNAVAILABLE"), Overloaded("64 keys")])
def test_what_passes_is_tried_again_at_the_next_call(desk: Regions, error: Exception) -> None:
    answers: list[client.Ask] = [lambda _: desk.invite(), refusing(error)]
    memory = SharedMemory(lambda address: answers.pop()(address), {})
    used(memory)
    assert used(memory) is None
    assert used(memory)
    memory.close()


def test_memory_that_the_shard_lost_is_given_up_until_its_next_process(
    desk: Regions, caplog: pytest.LogCaptureFixture
) -> None:
    memory = shared(desk)
    used(memory)
    with pytest.raises(RegionGone), memory.lent(SHARD, SIZE):
        raise RegionGone("this shard holds no such region")
    assert used(memory) is None
    assert caplog.text.count("holds no such region") == 1
    again = m.ShardAddress(0, SHARD.address, 6)
    used(memory, address=again)
    assert used(memory, address=again)
    memory.close()


def test_shard_that_let_go_is_noticed_before_the_call() -> None:
    desk = Regions()
    desk.start()
    memory = shared(desk)
    used(memory)
    assert used(memory)
    desk.close()
    assert used(memory) is None


def test_closed_while_a_call_is_under_way_it_leaves_no_file(desk: Regions) -> None:
    before, memory = open_files(), shared(desk)
    used(memory)
    with memory.lent(SHARD, SIZE) as region:
        assert isinstance(region, Region)
        memory.close()
        region.write(bytes(SIZE))
    until(lambda: desk.count == 0, "the region is given up")
    until(lambda: open_files() == before, "its files are closed")
    assert used(memory) is None
