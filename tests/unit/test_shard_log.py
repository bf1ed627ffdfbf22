"""A shard's log of one job: payloads that are written ahead, and states that a restart begins with."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from tests.oracle.settings import optimizer_of
from tests.unit.test_kernel_work import MANIFEST, begun
from tests.unit.test_shard import JOB

from sheepfold_server.core.records import StateSaved, VersionServed
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.shell.kernel_work import KernelWork
from sheepfold_server.shell.shard_log import ShardLog
from sheepfold_server.storage.log import payload as payloads
from sheepfold_server.storage.log.errors import LogCorrupt
from sheepfold_wire.codecs import Codec
from sheepfold_wire.frames import Buffer
from sheepfold_wire.ids import NO_ATTEMPT
from sheepfold_wire.plan import Plan

PLAN = Plan.of(MANIFEST, 1)


def started(directory: Path) -> KernelWork:
    """A shard's kernel, whose process has just started."""
    log = ShardLog(directory, "a shard", PLAN.part_bytes(0, Codec.FP32), is_synced=False)
    return KernelWork(ShardTensors(PLAN, 0, optimizer_of()), log, lambda version, copies: None)


def test_piece_that_the_disk_refuses_leaves_none_that_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is appended whole meanwhile: what was on its way would land on its payload."""
    log = ShardLog(tmp_path, "shard 0", 1 << 20, is_synced=False)
    assert not list(log.read())
    write, is_refused, is_appended = payloads.write, threading.Event(), threading.Event()

    def refusing_first(fd: int, data: Buffer, at: int) -> int:
        if not is_refused.is_set():
            is_refused.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        if threading.current_thread().name.startswith("log"):
            is_appended.wait(1.0)  # as long as `append` does not wait for it
        return write(fd, data, at)

    monkeypatch.setattr(payloads, "write", refusing_first)
    pieces = [bytes([i]) * 100_000 for i in (1, 2, 3)]
    ahead = log.ahead(300_000)
    for piece in pieces:
        ahead.take(piece)
    log.append(VersionServed(3), pieces, ahead)
    is_appended.set()
    log.close()
    log = ShardLog(tmp_path, "shard 0", 1 << 20, is_synced=False)
    assert [record for record, _ in log.read()] == [VersionServed(3)]
    assert bytes(log.payload(0)) == b"".join(pieces)


def test_saved_state_that_a_restart_passes_over_is_checked_all_the_same(tmp_path: Path) -> None:
    """What is saved next makes room of the one before, and leaves only this one to begin with."""
    state = begun().tensors.held().pieces()
    for version in (3, 13):
        work = started(tmp_path)
        work.recover(JOB, None)
        work.log.append(StateSaved(version, (), NO_ATTEMPT), state)
        work.log.close()
    work = started(tmp_path)
    assert work.recover(JOB, None)[0].version == 3
    work.log.append(VersionServed(0))  # the damaged record is not the newest: that one may be cut
    work.log.close()
    path = sorted(tmp_path.glob("*.log"))[1]
    with path.open("r+b") as file:
        file.seek(8192)
        byte = file.read(1)[0]
        file.seek(8192)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(LogCorrupt, match=rf"{path.name}: the payload of record 1 .*restore the file"):
        started(tmp_path).recover(JOB, None)
