"""What the kernel thread does for one job: the core's effects on its tensors and its log, each in its turn.

Live and after a restart the same code runs: replay hands in the effects that the log gives.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.headers import ShardJob
from sheepfold_server.core.records import InitPart, StateSaved, VersionServed
from sheepfold_server.core.replay import (
    LoadLogged,
    Place,
    Recovered,
    Replay,
    ReplayEffect,
    RestoreState,
    RestoreSum,
    ServeLogged,
    VersionDone,
    may_save,
)
from sheepfold_server.optim.products import slot_products
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.optim.steps import SliceTotals, Snapshot
from sheepfold_server.shell.shard_log import NoLog, PayloadAhead, ShardLog
from sheepfold_wire.codecs import Codec
from sheepfold_wire.frames import Buffer
from sheepfold_wire.ids import NO_ATTEMPT, NOTHING_LOADED, AttemptId

log = logging.getLogger(__name__)

Keep = Callable[[int, dict[Codec, Buffer]], None]
"""Takes the encoded copies of a version."""


@dataclass(frozen=True, slots=True)
class FirstState:
    """What a lineage begins with that did not begin with initial weights."""

    version: int
    snapshot: Snapshot
    older: tuple[Buffer, ...]
    """Fp32 parts of the versions before it, the newest first."""


def copied_beside(
    version: int, held: Snapshot, older: tuple[Buffer, ...], room: Snapshot | None
) -> Future[FirstState]:
    """`held` as it is now, copied into `room` by a thread of its own; it must not change until then."""
    copying: Future[FirstState] = Future()

    def copy() -> None:
        try:
            copying.set_result(FirstState(version, held.copy(room), older))
        except BaseException as error:
            copying.set_exception(error)

    threading.Thread(target=copy, name=f"copy-{version}", daemon=True).start()
    return copying


class KernelWork:
    """Every method runs in the kernel thread, and returns the event the core is told."""

    def __init__(self, tensors: ShardTensors, log_of_job: ShardLog | NoLog, keep: Keep) -> None:
        self.tensors, self.log, self.keep = tensors, log_of_job, keep
        self._split = tensors.layout.plan.split_slices
        self.block_ids = _block_ids(tensors)
        self.version: int = NOTHING_LOADED
        """Of the weights as they are."""
        self.products: dict[int, tuple[float, ...]] = {}
        """Inner products of slots with their mean, by step; until its Applied."""
        self._means: dict[int, PayloadAhead | None] = {}
        """Of open sums that are finished: on their way into the log."""
        self._copying: Future[FirstState] | None = None
        """Of the state as it is; gradients may be folded meanwhile."""
        self._room: Snapshot | None = None
        """Where the last copy was made, and the next will be."""

    # --- version 0 --------------------------------------------------------------------------------------

    def log_init(self, staged: m.Staged, payload: Buffer) -> e.InitLogged:
        self.log.append(InitPart(staged), [payload])
        return e.InitLogged(staged)

    def load(self, payload: Buffer, codecs: tuple[Codec, ...]) -> e.Loaded:
        self.tensors.load(payload)
        self.version = 0
        self.keep(0, {codec: self.tensors.encoded(codec) for codec in codecs})
        return e.Loaded()

    # --- the sum ----------------------------------------------------------------------------------------

    def fold(self, effect: e.FoldSlots, parts: list[tuple[int, Buffer, Codec, float]]) -> e.ShardEvent:
        began = time.perf_counter()
        try:
            if effect.is_first:
                self.tensors.begin(effect.step)
            self.tensors.fold(effect.step, [(payload, codec, factor) for _, payload, codec, factor in parts])
        except Exception:
            log.exception("folding slots %s of step %d failed", [part[0] for part in parts], effect.step)
            return e.FoldFailed(effect.step, effect.fold, parts[0][0])
        return e.FoldDone(effect.step, effect.fold, time.perf_counter() - began)

    def finish(self, effect: e.FinishSum) -> e.SumReady:
        layout = self.tensors.layout
        mean = self.log.ahead(layout.plan.part_bytes(layout.shard, Codec.FP32))
        self._means[effect.step] = mean
        report = self.tensors.finish(effect.step, effect.divisor, None if mean is None else mean.take)
        squares = tuple(report.sum_of_squares.tolist())
        return e.SumReady(effect.step, effect.fold, report.finite, report.max_abs, squares)

    def compare(self, step: int, parts: list[tuple[Buffer, Codec]]) -> None:
        """Each slot with the mean, for the report."""
        self.products[step] = slot_products(self.tensors.layout, self.tensors.mean(step), parts)

    def append(self, effect: e.Append) -> e.Appended:
        mean = self._means.pop(effect.step)
        if mean is not None:
            self.log.append(effect.record, mean.pieces, mean)
        return e.Appended(effect.step, effect.fold)

    def discard(self, step: int) -> None:
        self._means.pop(step, None)
        if self.tensors.is_open(step):
            self.tensors.discard(step)

    # --- what is decided --------------------------------------------------------------------------------

    def skip(self, effect: e.SkipStep) -> e.Skipped:
        self._await_copy()
        self.discard(effect.step)
        if effect.counts:
            self.tensors.count_skip()
        self.version = effect.step + 1
        return e.Skipped(effect.step)

    def directions(self, decision: m.Commit) -> e.DirectionsReady:
        self._await_copy()
        tensors = len(self.tensors.layout.plan.manifest.tensors)
        bits = np.unpackbits(np.frombuffer(decision.present, np.uint8), bitorder="little")[:tensors]
        report = self.tensors.directions(
            decision.step, decision.learning_rate, decision.clip_scale, bits.astype(np.bool_)
        )
        split = tuple(
            m.BlockNorms(block, float(report.weight_partials[i]), float(report.update_partials[i]))
            for i, (block, slice_index) in enumerate(self.block_ids)
            if slice_index in self._split
        )
        return e.DirectionsReady(decision.step, split)

    def apply(self, effect: e.ApplyUpdate, codecs: tuple[Codec, ...]) -> e.WeightsReady:
        began, decision = time.perf_counter(), effect.decision
        sums = {
            t.slice: SliceTotals(t.weight_partial, t.update_partial, t.gradient_squares)
            for t in effect.totals
        }
        reports, made = self.tensors.apply(decision.step, decision.learning_rate, sums, codecs)
        self.version = decision.step + 1
        if made:
            self.keep(self.version, made)
        slices = tuple(
            m.SliceReport(r.slice, r.weight_norm, r.update_norm, r.trust_ratio, r.clamp) for r in reports
        )
        # Encoded copies are written by the pass that makes the weights: there is no time to tell apart.
        return e.WeightsReady(decision.step, slices, time.perf_counter() - began, 0.0)

    def copy_state(self, version: int, older: tuple[Buffer, ...]) -> Future[FirstState]:
        """The state between two steps, for a checkpoint. The next step is folded while it is copied.

        One at a time: what was copied before is written over.
        """
        self._copying = copied_beside(version, self.tensors.held(), older, self._room)
        self._copying.add_done_callback(self._keep_room)
        return self._copying

    def _keep_room(self, copying: Future[FirstState]) -> None:
        self._room = None if copying.exception() else copying.result().snapshot

    def _await_copy(self) -> None:
        """Before the state changes. A copy that failed is told by whoever stores it."""
        if self._copying is not None:
            self._copying.exception()
            self._copying = None

    def save_if_long(
        self, version: int, slices: tuple[m.SliceReport, ...], newest: AttemptId, open_steps: int
    ) -> None:
        """Between two steps: the whole state goes into the log when the log has become long."""
        held = self.tensors.held().pieces()
        if not may_save(version, self.log.saved_version, open_steps):
            return
        if self.log.is_long(sum(memoryview(piece).nbytes for piece in held)):
            began = time.perf_counter()
            self.log.append(StateSaved(version, slices, newest), held)
            self.log.forget()
            log.info("the state at version %d is saved in %.2f s", version, time.perf_counter() - began)

    # --- after a restart --------------------------------------------------------------------------------

    def recover(self, job: ShardJob, first: Callable[[], FirstState] | None) -> tuple[Recovered, Buffer]:
        """Reads the log; (where the shard stands, initial weights that are not loaded yet).

        `first`: what a log that is empty begins with. Raises LogError, OSError; LookupError for a log that
        contradicts itself.
        """
        began = time.perf_counter()
        records = list(self.log.read())
        read = time.perf_counter()
        ahead = Replay(job.holds_split, job.counts_skips)
        for record, place in records:
            ahead.take(record, place)
        if ahead.version == NOTHING_LOADED and first is not None:
            return self._begin_with(first()), b""
        oldest = ahead.oldest_version(job.open_steps)
        replay = Replay(job.holds_split, job.counts_skips)
        redone = Redone(self, self.log.payload, oldest)
        for record, place in records:
            effects = replay.take(record, place)
            for effect in effects:
                redone.take(effect)
            if isinstance(record, StateSaved) and not effects:
                self.log.check(place)  # the next state that is saved leaves only this one to begin with
        for effect in replay.finish():
            redone.take(effect)
        found = replay.recovered(redone.slices, oldest)
        self.version = found.version
        init: Buffer = b"" if found.init is None else self.log.payload(found.init_place)
        self.log.end_of_reading()
        log.info(
            "the log was read in %.2f s; %d steps of it were made again in %.2f s, the rest of "
            "%.2f s went into state and weights",
            read - began,
            redone.steps,
            redone.step_seconds,
            time.perf_counter() - read,
        )
        return found, init

    def _begin_with(self, first: FirstState) -> Recovered:
        """The state of a checkpoint: this shard has nothing newer of the job's lineage."""
        self.log.end_of_reading()
        version = self.version = first.version
        self.tensors.restore(first.snapshot)
        for back, payload in enumerate(first.older, start=1):
            self.log.append(VersionServed(version - back), [payload])
            self.keep(version - back, {Codec.FP32: payload})
        self.log.append(StateSaved(version, (), NO_ATTEMPT), self.tensors.held().pieces())
        self.keep(version, {Codec.FP32: self.tensors.encoded(Codec.FP32)})
        return Recovered(version=version, oldest_version=version - len(first.older))


class Redone:
    """The effects of a replay. Versions from `oldest` on may be pulled and are encoded, in fp32."""

    def __init__(self, work: KernelWork, payload: Callable[[Place], Buffer], oldest: int) -> None:
        self._work, self._payload, self._oldest = work, payload, oldest
        self.slices: tuple[m.SliceReport, ...] = ()
        self.steps = 0
        self.step_seconds = 0.0

    def take(self, effect: ReplayEffect) -> None:
        began = time.perf_counter()
        self._take(effect)
        if isinstance(effect, RestoreSum | e.ComputeDirections | e.ApplyUpdate):
            self.step_seconds += time.perf_counter() - began
            self.steps += isinstance(effect, e.ApplyUpdate)

    def _take(self, effect: ReplayEffect) -> None:
        work = self._work
        match effect:
            case LoadLogged(place):
                work.tensors.load(self._payload(place))
            case RestoreState(saved, place):
                work.tensors.restore(work.tensors.held().read(self._payload(place)))
                self.slices = saved.slices
            case RestoreSum(step, place):
                work.tensors.begin(step)
                work.tensors.fold(step, [(self._payload(place), Codec.FP32, 1.0)])
                work.tensors.finish(step, 1.0)
            case ServeLogged(version, place):
                if version >= self._oldest:
                    work.keep(version, {Codec.FP32: self._payload(place)})
            case e.SkipStep():
                work.skip(effect)
            case e.ComputeDirections(decision):
                work.directions(decision)
            case e.ApplyUpdate():
                self.slices = work.apply(effect, ()).slices
            case VersionDone(version):
                if version >= self._oldest:
                    work.keep(version, {Codec.FP32: work.tensors.encoded(Codec.FP32)})


def _block_ids(tensors: ShardTensors) -> list[tuple[int, int]]:
    """(global block index, slice index) of the shard's own blocks, in their order."""
    plan = tensors.layout.plan
    return [
        (f.first_block + i, f.slice)
        for f in plan.shard_fragments(tensors.layout.shard)
        for i in range(f.blocks)
    ]
