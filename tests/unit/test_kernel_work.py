"""sheepfold_server.shell.kernel_work: the copy of the state for a checkpoint, made beside the next step."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from tests.oracle.settings import optimizer_of

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.optim.steps import Snapshot
from sheepfold_server.shell.kernel_work import KernelWork
from sheepfold_server.shell.shard_log import NoLog
from sheepfold_wire.codecs import Codec
from sheepfold_wire.manifest import ROW_ELEMENTS, Manifest, TensorSpec
from sheepfold_wire.plan import Plan

ROWS = 64
MANIFEST = Manifest((TensorSpec("dense", (ROWS, ROW_ELEMENTS), "float32", "parameter"),))
LATE_SECONDS = 0.3
"""For the next step to run into the copy, if it does not wait for it."""


def part(seed: int) -> bytes:
    return np.random.default_rng(seed).normal(size=ROWS * ROW_ELEMENTS).astype(np.float32).tobytes()


def begun() -> KernelWork:
    """Version 0 is loaded, and the gradient of step 0 is folded."""
    work = KernelWork(ShardTensors(Plan.of(MANIFEST, 1), 0, optimizer_of()), NoLog(), lambda *copies: None)
    work.load(part(1), ())
    fold(work, 0)
    return work


def fold(work: KernelWork, step: int) -> None:
    slot = e.FoldSlots(step, 0, is_first=True, parts=())
    assert isinstance(work.fold(slot, [(0, part(2 + step), Codec.FP32, 1.0)]), e.FoldDone)
    work.finish(e.FinishSum(step, 0, 1.0))


def decision(step: int, is_skip: bool = False) -> m.Commit:
    return m.Commit("j", 1, step, "", is_skip, 0.1, 1.0, b"\x01")


def update(work: KernelWork) -> None:
    work.directions(decision(0))
    work.apply(e.ApplyUpdate(decision(0), ()), ())


def skip(work: KernelWork) -> None:
    work.skip(e.SkipStep(0, counts=True))


def bytes_of(snapshot: Snapshot) -> list[bytes]:
    return [bytes(piece) for piece in snapshot.pieces()]


@pytest.mark.parametrize("change", [update, skip])
def test_the_state_does_not_change_until_it_is_copied(
    change: Callable[[KernelWork], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, may_copy, copy = begun(), threading.Event(), Snapshot.copy

    def late(snapshot: Snapshot, room: Snapshot | None) -> Snapshot:
        may_copy.wait(20)
        return copy(snapshot, room)

    monkeypatch.setattr(Snapshot, "copy", late)
    before = bytes_of(work.tensors.held())
    copying = work.copy_state(0, (b"older",))
    changing = threading.Thread(target=change, args=(work,))
    changing.start()
    changing.join(LATE_SECONDS)
    may_copy.set()
    changing.join(20)
    assert bytes_of(work.tensors.held()) != before
    assert bytes_of(copying.result().snapshot) == before
    assert (copying.result().version, copying.result().older) == (0, (b"older",))


def test_gradients_are_folded_while_the_state_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    work, may_copy = begun(), threading.Event()
    update(work)
    monkeypatch.setattr(Snapshot, "copy", lambda snapshot, room: may_copy.wait(20) and snapshot)
    copying = work.copy_state(1, ())
    fold(work, 1)
    assert not copying.done()
    may_copy.set()
    assert copying.result().version == 1


def test_a_copy_that_fails_stops_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(snapshot: Snapshot, room: Snapshot | None) -> Snapshot:
        raise MemoryError

    work = begun()
    monkeypatch.setattr(Snapshot, "copy", fail)
    copying = work.copy_state(0, ())
    update(work)
    with pytest.raises(MemoryError):
        copying.result()
