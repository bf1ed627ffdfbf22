"""One job on one shard: carries out what the core asks for. The only caller of Shard.handle.

Tensor work runs in the process's one kernel thread, in the order of the effects; torch lets go of the GIL, so
calls are answered meanwhile. Bytes of parts and encoded versions are held here, by attempt and by version.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.headers import ShardJob
from sheepfold_server.core.replay import Recovered
from sheepfold_server.core.shard import Shard
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.shell.about import resident_bytes
from sheepfold_server.shell.actor import Actor
from sheepfold_server.shell.encoded import EncodedVersions
from sheepfold_server.shell.kernel_work import FirstState, KernelWork
from sheepfold_server.shell.made_again import made_again
from sheepfold_server.shell.part_store import NO_PARTS, JobParts
from sheepfold_server.shell.shard_log import NoLog, ShardLog
from sheepfold_server.shell.transfers import AheadPart, Served
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import SheepfoldError, VersionGone
from sheepfold_wire.frames import Buffer
from sheepfold_wire.ids import NOTHING_LOADED, AttemptId

log = logging.getLogger(__name__)


class ShardActor:
    """Joins the core of a job with its tensors, its bytes and its callers."""

    def __init__(
        self,
        job: ShardJob,
        tensors: ShardTensors,
        kernel: ThreadPoolExecutor,
        send: Callable[[m.ShardReport], None],
        halt: Callable[[str], None],
        job_log: ShardLog | NoLog,
        parts: JobParts = NO_PARTS,
    ) -> None:
        """Takes up the job where its log ends: returns once that is done. Raises LogError, StoreErrors."""
        self.job, self.tensors, self._checkpoints = job, tensors, parts
        self._kernel, self._send, self._halt = kernel, send, halt
        self._encoded = EncodedVersions(tensors, job.open_steps)
        self._work = KernelWork(tensors, job_log, self._encoded.keep)
        self._tokens = itertools.count(1)
        self._lock, self._door = threading.Lock(), threading.Lock()
        self._is_closed = False
        self._waiting: dict[int, Future[object]] = {}
        self._asked: dict[int, tuple[int | None, Codec]] = {}
        """What a pull asks for, by its token: a version, or the newest, and a codec."""
        self._arriving: dict[int, tuple[AttemptId, Buffer, Codec]] = {}
        self._parts: dict[AttemptId, tuple[Buffer, Codec]] = {}
        self._ahead: dict[AttemptId, AheadPart] = {}
        slices = tensors.layout.plan.manifest.slices
        self.tensor_of_block = [slices[index].tensor for _, index in self._work.block_ids]
        self.bytes_in = self.bytes_out = self._reported_in = self._reported_out = 0
        self._core = Shard(job, self._recover())
        self._actor: Actor[e.ShardEvent, e.ShardEffect] = Actor(
            self._core.handle, self._perform, lambda error: self._fail("its bookkeeping", error)
        )

    def _recover(self) -> Recovered:
        job, parts = self.job, self._checkpoints
        first = None if parts.restore is None else parts.first_state
        found, init = self._kernel.submit(self._work.recover, job, first).result()
        if found.init is not None:
            self._parts[found.init] = init, Codec.FP32
        if found.version > NOTHING_LOADED:
            log.info("job %s: version %d is recovered", job.job, found.version)
        return found

    def close(self, why: SheepfoldError) -> None:
        """Of a lineage that has ended: whoever waits is told, and nothing is said or done for it any more."""
        with self._door:
            self._is_closed = True
        with self._lock:
            waiting = list(self._waiting)
        for token in waiting:
            self._answer(token, why)
        with contextlib.suppress(RuntimeError):  # the process is stopping
            self._kernel.submit(self._work.log.close)

    # --- from the services ----------------------------------------------------------------------------

    def command(self, command: m.ShardCommand) -> None:
        self._actor.submit(e.Command(command))

    def open_push(self, header: m.PushHeader) -> tuple[int, Future[object]]:
        """(token, what to do): the future yields what is held ahead, or AnswerPush; or raises the refusal."""
        token, future = self._expect()
        self._actor.submit(e.PushOpened(token, header))
        return token, future

    def received(
        self, token: int, attempt: AttemptId, payload: Buffer, codec: Codec, check: e.PartCheck
    ) -> Future[object]:
        """The body is whole and checked; the future yields AnswerPush or raises the refusal."""
        future: Future[object] = Future()
        with self._lock:
            self._waiting[token] = future
            self._arriving[token] = (attempt, payload, codec)
            self.bytes_in += len(payload)
        self._actor.submit(e.PushReceived(token, check))
        return future

    def push_broken(self, token: int) -> None:
        self._forget(token)
        self._actor.submit(e.PushBroken(token))

    def pull(self, version: int | None, codec: Codec) -> tuple[int, Future[object]]:
        """(token, answer): the future yields Served, or raises the refusal."""
        token, future = self._expect()
        self._asked[token] = version, codec
        self._actor.submit(e.PullAsked(token, version))
        return token, future

    def pull_gone(self, token: int) -> None:
        self._asked.pop(token, None)
        self._forget(token)
        self._actor.submit(e.PullGone(token))

    def _forget(self, token: int) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._waiting.pop(token, None)

    def digest(self) -> Future[object]:
        """Yields (version, [Entry]) between two steps."""
        token, future = self._expect()
        self._actor.submit(e.DigestAsked(token))
        return future

    def _expect(self) -> tuple[int, Future[object]]:
        token, future = next(self._tokens), Future[object]()
        with self._lock:
            self._waiting[token] = future
        return token, future

    def note_sent(self, count: int) -> None:
        with self._lock:
            self.bytes_out += count

    # --- effects ----------------------------------------------------------------------------------------

    def _perform(self, effect: e.ShardEffect) -> None:
        match effect:
            case e.Report(report):
                self._tell(self._measured(report) if isinstance(report, m.Applied) else report)
            case e.ReceiveAhead(token, attempt):
                self._answer(token, self._ahead.setdefault(attempt, AheadPart()))
            case e.ReceiveBody(token, attempt):
                self._answer(token, self._ahead.pop(attempt, None) or AheadPart())
            case e.AnswerPush(token, _):
                if token in self._arriving:
                    attempt, payload, codec = self._arriving.pop(token)
                    self._parts[attempt] = (payload, codec)
                self._answer(token, effect)
            case e.RefusePush(token, error) | e.RefusePull(token, error):
                self._arriving.pop(token, None)
                self._asked.pop(token, None)
                self._answer(token, error)
            case e.ServePull():
                self._serve(effect)
            case e.DropParts(attempts):
                for attempt in attempts:
                    self._parts.pop(attempt, None)
                    self._ahead.pop(attempt, AheadPart()).take(0)
            case e.KeepVersion(step):
                self._encoded.carry_over(step)
            case e.RetireVersions(oldest, kept_versions):
                self._encoded.retire(oldest, kept_versions)
            case e.Halt(why):
                self._halt(why)
            case _:
                self._perform_on_kernel(effect)

    def _tell(self, report: m.ShardReport) -> None:
        """Nothing of a lineage once it is closed: the next one says all that counts."""
        with self._door:
            if not self._is_closed:
                self._send(report)

    def _measured(self, report: m.Applied) -> m.Applied:
        with self._lock:
            new_in, new_out = self.bytes_in - self._reported_in, self.bytes_out - self._reported_out
            self._reported_in, self._reported_out = self.bytes_in, self.bytes_out
        memory, queue = resident_bytes(), self._actor.waiting
        report = replace(report, slot_products=self._work.products.pop(report.step, ()))
        return replace(report, bytes_in=new_in, bytes_out=new_out, memory_bytes=memory, queue=queue)

    def _answer(self, token: int, answer: object) -> None:
        with self._lock:
            future = self._waiting.pop(token, None)
        if future is None or future.done():
            return
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _serve(self, effect: e.ServePull) -> None:
        version, codec = self._asked.pop(effect.token, (effect.version, Codec.FP32))
        payload = self._encoded.find(effect.version, codec)
        if payload is not None:
            self._answer(effect.token, Served(effect.version, payload))
        else:
            self._encode_first(effect, codec, takes_newest=version is None)

    def _encode_first(self, effect: e.ServePull, codec: Codec, takes_newest: bool) -> None:
        def work() -> None:
            try:
                payload = self._encoded.asked_for(effect.version, codec, self._work.version)
            except VersionGone as error:
                if takes_newest:  # which is another one by now
                    self._asked[effect.token] = None, codec
                    self._actor.submit(e.PullAsked(effect.token, None))
                else:
                    self._answer(effect.token, error)
            else:
                self._answer(effect.token, Served(effect.version, payload))

        self._on_kernel(work)

    # --- the kernel thread --------------------------------------------------------------------------------

    def _on_kernel(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            if self._is_closed:
                return
            try:
                work()
            except Exception as error:
                self._fail("kernel work", error)

        try:
            self._kernel.submit(guarded)
        except RuntimeError:  # the process is stopping: what is undecided begins again elsewhere
            log.info("job %s: kernel work is dropped, the shard is stopping", self.job.job)

    def _fail(self, what: str, error: Exception) -> None:
        incident = uuid.uuid4().hex[:12]
        log.error("incident %s: job %s: %s failed", incident, self.job.job, what, exc_info=error)
        self._halt(f"{what} of job {self.job.job} failed, incident {incident}: see the log of the shard")

    def _perform_on_kernel(self, effect: e.ShardEffect) -> None:
        work = self._work
        match effect:
            case e.LogInit(staged):
                payload, _ = self._parts[staged.attempt]
                self._answered_by(lambda: work.log_init(staged, payload))
            case e.LoadState(attempt):
                payload, _ = self._parts[attempt]
                self._answered_by(lambda: work.load(payload, self._encoded.codecs))
            case e.FoldSlots():
                self._fold_parts(effect)
            case e.FinishSum():
                self._finish(effect)
            case e.Append():
                self._answered_by(lambda: work.append(effect))
            case e.AppendNote(note):
                self._on_kernel(lambda: work.log.append(note))
            case e.DiscardSum(step):
                self._on_kernel(lambda: work.discard(step))
            case e.SkipStep():
                self._answered_by(lambda: work.skip(effect))
            case e.ComputeDirections(decision):
                self._answered_by(lambda: work.directions(decision))
            case e.ApplyUpdate():
                self._apply(effect)
            case e.StorePart(version, older):
                copies = tuple(self._exact(before) for before in older)
                self._on_kernel(lambda: self._store(version, lambda: work.copy_state(version, copies)))
            case e.StoreEarlier(version):
                self._on_kernel(lambda: self._store(version, lambda: made_again(work, self.job, effect)))
            case e.ComputeDigest(token, version):
                self._on_kernel(lambda: self._answer(token, (version, self.tensors.block_digests())))
            case _:
                raise TypeError(f"no way to perform {effect!r}")

    def _store(self, version: int, make: Callable[[], Future[FirstState]]) -> None:
        """One more state in memory, written while training goes on."""
        if self._checkpoints.is_busy:
            why = "an earlier version is still being stored here"
            self._actor.submit(e.PartStored(m.PartSaved(self.job.job, version, "", 0, "", why)))
            return
        self._checkpoints.store(version, make(), lambda saved: self._actor.submit(e.PartStored(saved)))

    def _answered_by(self, work: Callable[[], e.ShardEvent]) -> None:
        """Kernel work whose result is an event."""
        self._on_kernel(lambda: self._actor.submit(work()))

    def _apply(self, effect: e.ApplyUpdate) -> None:
        def work() -> None:
            self._encoded.overwrite(effect.decision.step)
            ready = self._work.apply(effect, self._encoded.codecs)
            self._actor.submit(ready)
            version, newest = effect.decision.step + 1, self._core.newest_attempt
            self._work.save_if_long(version, ready.slices, newest, self.job.open_steps)

        self._on_kernel(work)

    def _finish(self, effect: e.FinishSum) -> None:
        parts = [self._parts[attempt] for attempt in effect.compared if attempt in self._parts]

        def work() -> None:
            ready = self._work.finish(effect)
            self._actor.submit(ready)
            if parts and len(parts) == len(effect.compared) and ready.is_finite:
                self._work.compare(effect.step, parts)

        self._on_kernel(work)

    def _fold_parts(self, effect: e.FoldSlots) -> None:
        """The bytes are taken now: by the time the kernel runs, their attempts may have been dropped."""
        gone = [slot for slot, attempt, _ in effect.parts if attempt not in self._parts]
        if gone:
            self._actor.submit(e.FoldFailed(effect.step, effect.fold, gone[0]))
            return
        parts = [(slot, *self._parts[attempt], factor) for slot, attempt, factor in effect.parts]
        self._answered_by(lambda: self._work.fold(effect, parts))

    def _exact(self, version: int) -> Buffer:
        """With `delay`, of a version that gradients are computed at: it is always there."""
        found = self._encoded.find(version, Codec.FP32)
        assert found is not None
        return found
