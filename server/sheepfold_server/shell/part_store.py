"""A shard's parts of checkpoints: stored by a thread of their own while training goes on, and read back."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import numpy.typing as npt

import sheepfold_wire.messages as m
from sheepfold_server.core.headers import ShardJob
from sheepfold_server.optim.steps import Snapshot
from sheepfold_server.shell.kernel_work import FirstState
from sheepfold_server.storage.checkpoints import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointStore,
    PartId,
)
from sheepfold_server.storage.checkpoints.parts import (
    APPLIED_STEPS,
    FLOATS,
    INTEGERS,
    WEIGHTS,
    base_name,
    older_names,
    state_name,
)
from sheepfold_server.storage.log.errors import LogError
from sheepfold_wire.errors import VersionGone

log = logging.getLogger(__name__)

StoreErrors = (CheckpointError, OSError, ValueError, ImportError)
"""What a store may fail with: ours, the disk's or network's, and an url that fsspec does not know."""


GIVES_WAY = 10
"""Nice value: a tenth of the processor's time where steps want all of it."""


def give_way() -> None:
    """The calling thread computes when others do not: checks and writes of a checkpoint are in no hurry."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), GIVES_WAY)


class JobParts:
    """The parts of one job on one shard, where none are kept; and what is the same where they are."""

    restore: m.CheckpointRef | None = None
    """What this lineage began with."""
    is_busy: bool = False
    """Whether a part is being stored: a copy of the state is in memory for it, and there is room for one."""

    def store(self, version: int, state: Future[FirstState], done: Callable[[m.PartSaved], None]) -> None:
        raise LookupError(f"version {version} cannot be stored: no checkpoints are kept")

    def first_state(self) -> FirstState:
        raise LookupError("this lineage began with no checkpoint")


NO_PARTS = JobParts()


class PartStore(JobParts):
    """The parts of one job on one shard at a checkpoint url."""

    def __init__(self, command: m.OpenJob, job: ShardJob, executor: Executor) -> None:
        self.url, self.restore = command.checkpoint_url, command.restore
        self._job, self._shard_count = job, command.shard_count
        self._executor = executor

    def store(self, version: int, state: Future[FirstState], done: Callable[[m.PartSaved], None]) -> None:
        """Returns at once; `done` is told from another thread. The state must not change any more."""
        self.is_busy = True

        def work() -> None:
            saved = self._stored(version, state)
            self.is_busy = False
            done(saved)

        self._executor.submit(work)

    def _stored(self, version: int, state: Future[FirstState]) -> m.PartSaved:
        job, began = self._job, time.perf_counter()
        part = PartId(job.lineage, version, job.shard, self._shard_count, job.incarnation)
        try:
            saved = CheckpointStore(self.url, job.job).save_part(part, self._arrays(state.result()), {})
        except (*StoreErrors, VersionGone, LogError) as error:
            log.error("the part of version %d is not stored: %s", version, error)
            return m.PartSaved(job.job, version, "", 0, "", str(error))
        except Exception as error:
            log.exception("the part of version %d is not stored", version)
            return m.PartSaved(job.job, version, "", 0, "", f"{type(error).__name__}: see the shard's log")
        log.info("version %d: %d bytes stored in %.2f s", version, saved.bytes, time.perf_counter() - began)
        return m.PartSaved(job.job, version, saved.file, saved.bytes, saved.sha256)

    def first_state(self) -> FirstState:
        """This shard's part of that checkpoint, whatever number of shards wrote it. Raises StoreErrors."""
        ref, store = self.restore, CheckpointStore(self.url, self._job.job)
        if ref is None:
            return super().first_state()
        listing = store.listing(ref.lineage)
        for index in listing.indices + listing.superseded:
            if (index.version, index.term) == (ref.version, ref.term):
                return state_of_part(ref.version, store.read_part(index, self._job.shard, self._shard_count))
        name = f"{self._job.job}/{ref.lineage}/INDEX-{ref.version}.{ref.term}.json"
        raise CheckpointCorrupt(f"{self.url}/{name}", "an index, as the coordinator sees it", "none")

    def _arrays(self, state: FirstState) -> dict[str, npt.NDArray[Any]]:
        snapshot = state.snapshot
        found: dict[str, npt.NDArray[Any]] = {
            WEIGHTS: snapshot.weights,
            APPLIED_STEPS: snapshot.applied_steps,
        }
        found |= {FLOATS: snapshot.floats, INTEGERS: snapshot.integers}
        found |= {state_name(number): buffer for number, buffer in enumerate(snapshot.state)}
        for back, part in enumerate(state.older, start=1):
            raw, sizes = memoryview(part).cast("B"), (snapshot.weights.nbytes, snapshot.floats.nbytes)
            weights, floats, integers = older_names(back)
            found[weights] = np.frombuffer(raw[: sizes[0]], np.float32).reshape(snapshot.weights.shape)
            found[floats] = np.frombuffer(raw[sizes[0] : sum(sizes)], np.float32)
            found[integers] = np.frombuffer(raw[sum(sizes) :], np.int64)
        return found


def state_of_part(version: int, arrays: dict[str, npt.NDArray[Any]]) -> FirstState:
    """`arrays` as the store reads them."""
    older: list[bytes] = []
    while all(name in arrays for name in older_names(len(older) + 1)):
        older.append(b"".join(arrays[name].tobytes() for name in older_names(len(older) + 1)))
    buffers = sum(base_name(name) == base_name(state_name(0)) for name in arrays)
    state = tuple(arrays[state_name(number)] for number in range(buffers))
    snapshot = Snapshot(arrays[WEIGHTS], state, arrays[APPLIED_STEPS], arrays[FLOATS], arrays[INTEGERS])
    return FirstState(version, snapshot, tuple(older))
