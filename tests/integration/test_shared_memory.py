"""Payloads through shared memory, with real servers: the same bits, whatever the other side does to it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.faults.fleet import killed_fleet
from tests.faults.raw import RawWorker
from tests.integration.harness import RunningFold, digest_of, running_fold, small_job, train, until

import sheepfold_wire.messages as m
from sheepfold.transport.grpc import GrpcTransport
from sheepfold.transport.shared_memory import VARIABLE, Region
from sheepfold_server.shell.shared_memory import Regions
from sheepfold_wire.errors import BadFrame, ChunkChecksumMismatch, PreconditionError, RegionGone
from sheepfold_wire.frames import (
    Chunk,
    Written,
    chunk_frames,
    push_header_frame,
    push_region_frame,
    read_pull_frame,
)

HALF_PUSH = Path(__file__).parents[1] / "faults" / "half_push.py"


@cache
def golden() -> str:
    """Of a run whose payloads go in frames."""
    with pytest.MonkeyPatch.context() as patch, running_fold(2) as fold:
        patch.setenv(VARIABLE, "0")
        train(fold.address, small_job())
        assert held(fold) == 0
        return digest_of(fold.address, "small")


def held(fold: RunningFold) -> int:
    """Regions of all shards."""
    return sum(shard.regions.count for shard in fold.shards)


# --- the same bits --------------------------------------------------------------------------------------


def test_state_is_the_same_through_shared_memory() -> None:
    most = 0

    def look(_: Any) -> None:
        nonlocal most
        most = max(most, held(fold))

    with running_fold(2) as fold:
        train(fold.address, small_job(), look)
        assert most >= 2, "each shard was handed memory"
        assert digest_of(fold.address, "small") == golden()
        until(lambda: held(fold) == 0, "a worker that leaves takes its memory along")


def test_state_is_the_same_for_workers_with_and_without() -> None:
    def work(environ: dict[str, str]) -> None:
        transport: Any = GrpcTransport(fold.address, environ)
        train(transport, small_job())

    with running_fold(2) as fold, ThreadPoolExecutor(4) as workers:
        list(workers.map(work, [{VARIABLE: "0"}, {}, {VARIABLE: "0"}, {}]))
        assert digest_of(fold.address, "small") == golden()


def test_another_host_is_told_of_once_and_trains_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sheepfold")
    monkeypatch.setattr("sheepfold.transport.shared_memory.boot_id", lambda: "another")
    with running_fold(2) as fold:
        train(fold.address, small_job())
        assert digest_of(fold.address, "small") == golden()
    for shard in range(2):
        assert caplog.text.count(f"payloads of shard {shard} go over gRPC: it is on another host") == 1


def test_server_of_an_earlier_version_is_told_of_once_and_trains_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sheepfold")

    def unknown(self: GrpcTransport, address: m.ShardAddress) -> m.ShareReply:
        raise PreconditionError(f"Share at shard {address.shard}: the server there does not know this call")

    monkeypatch.setattr(GrpcTransport, "_share", unknown)
    with running_fold(2) as fold:
        train(fold.address, small_job())
        assert digest_of(fold.address, "small") == golden()
    assert caplog.text.count("go over gRPC") == 2


def test_memory_lost_in_the_middle_costs_nothing_but_speed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The shard forgets all regions at once, without a word to their workers."""

    empty = Regions()

    def forget(slot: Any) -> None:
        if slot.step == 2:
            for shard in fold.shards:
                monkeypatch.setattr(shard.regions, "_borrowed", empty._borrowed)

    with running_fold(2) as fold:
        train(fold.address, small_job(), forget)
        assert digest_of(fold.address, "small") == golden()
    empty.close()
    assert caplog.text.count("go over gRPC: this shard holds no such region") == 2


# --- what a worker may do to its memory -----------------------------------------------------------------


class World:
    """One worker driven by hand, with memory that both shards hold."""

    def __init__(self, fold: RunningFold) -> None:
        self.fold, self.worker = fold, RawWorker(fold.address, small_job())
        init = self.worker.lease()
        assert init is not None
        self.size = len(self.worker.payload(init, 0))
        self.worker.push(init)

    def lease(self) -> m.Lease:
        lease = self.worker.lease()
        assert lease is not None
        return lease

    def push(self, lease: m.Lease, to: int, region: int) -> m.PushReply:
        header = self.worker.header(lease, to, self.worker.payload(lease, to))
        return self.worker.send(to, [push_header_frame(header), push_region_frame(region)])


@pytest.fixture
def world() -> Iterator[World]:
    with running_fold(2) as fold:
        made = World(fold)
        yield made
        made.worker.close()


@cache
def golden_by_hand() -> str:
    with running_fold(2) as fold:
        worker = RawWorker(fold.address, small_job())
        worker.work()
        worker.close()
        return digest_of(fold.address, "small")


def test_bytes_changed_after_the_header_are_refused_and_those_staged_are_the_shards_own(world: World) -> None:
    worker, regions = world.worker, [world.worker.region(to, world.size) for to in range(2)]
    while (lease := worker.lease()) is not None:
        for to, region in enumerate(regions):
            payload = worker.payload(lease, to)
            region.write(payload[:-1] + bytes([payload[-1] ^ 1]))
            with pytest.raises(ChunkChecksumMismatch, match="send the part again"):
                world.push(lease, to, region.number)
            region.write(payload)
            world.push(lease, to, region.number)
            region.write(os.urandom(world.size))
    assert digest_of(world.fold.address, "small") == golden_by_hand()


def test_bytes_that_change_all_the_time_are_staged_whole_or_refused(world: World) -> None:
    """Whatever the shard checked is what it folds: no value of the worker's other payload gets in."""
    worker, regions = world.worker, [world.worker.region(to, world.size) for to in range(2)]
    refused = 0
    while (lease := worker.lease()) is not None:
        for to, region in enumerate(regions):
            with changing(region, worker.payload(lease, to)):
                while True:
                    try:
                        world.push(lease, to, region.number)
                        break
                    except ChunkChecksumMismatch:
                        refused += 1
    print(f"{refused} pushes refused")
    assert refused
    assert digest_of(world.fold.address, "small") == golden_by_hand()


@contextmanager
def changing(region: Region, payload: bytes) -> Iterator[None]:
    """While within, the region holds the payload and another one in turns."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.is_set():
            for content in (bytes(len(payload)), payload):
                region.write(content)
                stopped.wait(0.001)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


BODIES: dict[str, tuple[Callable[[Region, bytes], list[bytes]], type[Exception], str]] = {
    "of a region that is not held": (lambda _, __: [push_region_frame(77)], RegionGone, "no such region"),
    "of a negative number": (lambda _, __: [push_region_frame(-1)], RegionGone, "no such region"),
    "of too short a region": (lambda r, _: [push_region_frame(r.number)], BadFrame, "has 1000 bytes"),
    "of a region after a chunk": (
        lambda r, payload: [next(chunk_frames(payload, 1000)), push_region_frame(r.number)],
        BadFrame,
        "is named after 1000 bytes",
    ),
    "of a chunk after a region": (
        lambda r, payload: [push_region_frame(77), next(chunk_frames(payload, 1000))],
        RegionGone,
        "no such region",
    ),
}


@pytest.mark.parametrize("kind", BODIES)
def test_push_without_its_bytes_is_refused_and_taken_in_frames(world: World, kind: str) -> None:
    body, refusal, said = BODIES[kind]
    lease, region = world.lease(), world.worker.region(0, 1000)
    payload = world.worker.payload(lease, 0)
    header = push_header_frame(world.worker.header(lease, 0, payload))
    with pytest.raises(refusal, match=said):
        world.worker.send(0, [header, *body(region, payload)])
    assert world.worker.push_part(lease, 0).duplicate is False


def test_region_of_one_shard_is_not_one_of_the_other(world: World) -> None:
    region = world.worker.region(0, world.size)
    with pytest.raises(RegionGone):
        world.push(world.lease(), 1, region.number)


def test_pull_is_written_to_the_region_or_comes_in_chunks(world: World) -> None:
    whole = [read_pull_frame(frame) for frame in world.worker.pull_frames(0)]
    payload = b"".join(frame.data for frame in whole if isinstance(frame, Chunk))
    region, short = world.worker.region(0, len(payload)), world.worker.region(0, len(payload) - 1)
    _, written, _ = [read_pull_frame(frame) for frame in world.worker.pull_frames(0, region=region.number)]
    assert isinstance(written, Written)
    assert region.payload(len(payload), written.checksum) == payload
    for number in (short.number, 77, -1):
        again = [read_pull_frame(frame) for frame in world.worker.pull_frames(0, region=number)]
        assert b"".join(frame.data for frame in again if isinstance(frame, Chunk)) == payload
    assert bytes(short.memory) == bytes(len(payload) - 1), "nothing is written to a region that is too short"


def test_pull_that_another_call_wrote_over_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier pull, given up by its caller, may be answered late: into memory that is in use again."""
    transport, to, asked = (
        world.worker.transport,
        world.worker.attached.shards[0],
        world.worker.pull_request(0),
    )
    whole = [transport.pull(to, asked)[1] for _ in range(3)]
    assert whole[0] == whole[1] == whole[2]
    assert held(world.fold) == 1
    wrote = Regions.write

    def late(self: Regions, number: int, payload: Any) -> int:
        checksum = wrote(self, number, payload)
        wrote(self, number, bytes(len(payload)))
        return checksum

    monkeypatch.setattr(Regions, "write", late)
    with pytest.raises(ChunkChecksumMismatch, match="pull again"):
        transport.pull(to, asked)
    monkeypatch.setattr(Regions, "write", wrote)
    assert transport.pull(to, asked)[1] == whole[0]


# --- deaths ---------------------------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_killed_worker_leaves_the_shard_neither_memory_nor_files() -> None:
    job = small_job(leases={"seconds": 1.0})
    with running_fold(1) as fold:
        left = []
        for _ in range(3):
            command = [sys.executable, str(HALF_PUSH), fold.address, job.to_json(), "shared"]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "half sent\n"
                assert held(fold) == 1
                assert "memfd:sheepfold" not in Path("/proc/self/maps").read_text()
                process.kill()
            until(lambda: held(fold) == 0, "its memory is given up")
            until(lambda: not left or open_files() <= left[0], f"files go back to {left}")
            left.append(open_files())
        print(f"{left} open files")
        worker = RawWorker(fold.address, job)
        worker.work()
        worker.close()
        assert fold.fleet.status(job.name).version == 4


@pytest.mark.slow
def test_worker_goes_on_with_the_next_process_of_a_killed_shard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sheepfold")
    job = small_job(leases={"seconds": 3.0})
    with killed_fleet(tmp_path, job, workers=0) as fleet:
        shard = fleet.supervisor.shards[1]

        killed: list[int] = []

        def kill(slot: Any) -> None:
            if slot.step == 2 and not killed:
                assert "payloads of shard 1 go through" in caplog.text
                killed.append(shard.pid)
                fleet.kill(shard)
                fleet.until(lambda: shard.pid not in (0, *killed), "another process of the shard")

        train(fleet.address, job, kill)
        assert digest_of(fleet.address, "small") == golden()
    assert caplog.text.count("payloads of shard 1 go through") == 2
    assert caplog.text.count("payloads of shard 0 go through") == 1
