"""A torch model in a job: slots to compute, gradients to contribute, weights that follow the server's."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import sheepfold_wire.messages as m
from sheepfold.contract import contract
from sheepfold.errors import JobEnded, Refused, ServerUnavailable
from sheepfold.joining import Joining
from sheepfold.loading import Feed, SlotSampler, feed_of
from sheepfold.model_tensors import ModelTensors, check_loss_scale, down_codec, manifest_of
from sheepfold.places import leave_on_rerun, remember
from sheepfold.pushes import Pushes
from sheepfold.result import StepResult
from sheepfold.slot import Slot
from sheepfold.weights import ModelWeights
from sheepfold.worker import Worker, join

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

log = logging.getLogger("sheepfold")

FINAL_PULL_SECONDS = 30.0

_announced: set[str] = set()
"""Jobs whose contract this process has printed."""


def _join_group(joining: Joining, group: ProcessGroup) -> Worker:
    from sheepfold.host_group import join_group  # torch may be built without torch.distributed

    return join_group(joining, group)


class Run:
    """One model's place in a job. Close it, or use it in a `with`, so that leases are handed back."""

    def __init__(self, worker: Worker, tensors: ModelTensors, overlap: bool = False) -> None:
        self._worker = worker
        self._weights = ModelWeights(worker, tensors)
        self._pushes = Pushes(worker)
        self._overlap = self._weights.overlap() if overlap else None
        self._slot: Slot | None = None
        self._slot_began = 0.0
        self._feed: Feed | None = None
        self._sampler: SlotSampler | None = None
        self._chores_over: dict[str, int] = {}
        """By name of a chore, the version from which asking for it makes sense again."""
        self._ended: str | None = None
        self._is_closed = False

    @classmethod
    def of(
        cls,
        tensors: ModelTensors,
        joining: Joining,
        group: ProcessGroup | None = None,
        overlap: bool = False,
    ) -> Run:
        """Join with these tensors, and say on what terms; loads the newest weights if there are any yet."""
        leave_on_rerun(tensors.parameters.values())
        manifest, down = manifest_of(tensors), down_codec(tensors)
        joining = replace(joining, manifest=manifest, down=down, device=tensors.device)
        worker = join(joining) if group is None else _join_group(joining, group)
        try:
            check_loss_scale(tensors, worker.job)
            return cls(worker, tensors, overlap)._begun()
        except BaseException:
            worker.close()
            raise

    def _begun(self) -> Run:
        worker = self._worker
        if worker.leads and worker.job.name not in _announced:
            _announced.add(worker.job.name)
            print(contract(worker), file=sys.stderr)
        if worker.version_at_attach >= 0:
            worker.pull()
            self._weights.load()
        remember(self, self._weights.tensors.parameters.values())
        return self

    @property
    def job(self) -> str:
        return self._worker.job.name

    @property
    def worker(self) -> Worker:
        return self._worker

    @property
    def version(self) -> int:
        """Committed steps in the weights that the model holds; -1 while the job has none."""
        return self._worker.version

    @property
    def step_number(self) -> int:
        """The job's step that is being computed; never a local count."""
        step = self._slot.step if self._slot is not None else None
        return max(0, self.version) if step is None else step

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def has_ended(self) -> bool:
        return self._ended is not None

    @property
    def slot(self) -> Slot | None:
        """The slot being computed."""
        return self._slot

    def batch_sampler(self, micro_batch: int) -> SlotSampler:
        """For a DataLoader's `batch_sampler`: micro-batches of the slots leased, and of those that come next.

        Give the loader to `run.slots` or `run.batches`. Raises Refused unless leases name samples and
        `micro_batch` divides the job's slots.
        """
        self._sampler = SlotSampler(self._worker.own_job, micro_batch)
        if self._overlap is not None and self._worker.own_job.batch.slot_samples > micro_batch:
            self._overlap.turn_off(f"a slot is the mean of several micro-batches of {micro_batch}")
        return self._sampler

    def follow(self, loader: Any) -> None:
        """From the next slot on, slots have this loader's micro-batches; Refused if it does not fit."""
        feed = feed_of(loader, self._worker.own_job, self._sampler)
        self._close_feed()
        self._feed = feed
        self._worker.plans_ahead = self._feed.plans_ahead

    @property
    def data_wait_seconds(self) -> float:
        """Time spent waiting for micro-batches of the loader."""
        return 0.0 if self._feed is None else self._feed.wait_seconds

    def slots(self, loader: Any = None) -> Iterator[Slot]:
        """Slots to compute, one by one, until the job ends; waits while there is none or the job is paused.

        With a loader, `for batch in slot` gives the slot's micro-batches: of a DataLoader with
        `run.batch_sampler`, of the script's own loader where `data.mode = "free"`, or of a SequentialFiles.
        Torch's generators are seeded for each slot, so that a slot is the same whoever computes it. A slot
        that is left without `run.step()` is handed back.
        """
        if loader is not None:
            self.follow(loader)
        while (slot := self.next_slot()) is not None:
            try:
                yield slot
            finally:
                if self._slot is slot:
                    self.give_back("left without run.step()")

    def batches(self, loader: Any) -> Iterator[Any]:
        """Micro-batches for a loop that is written already, until the job ends.

        The loop calls `step()`, of the run or of its RemoteOptimizer, after the last one of each slot.
        """
        self.follow(loader)
        while (slot := self._slot or self.next_slot()) is not None:
            yield from self._feed_slot(slot)
            if self._slot is slot:
                raise Refused(
                    f"slot {slot.lease.slot} of step {slot.step} is at its end and was not stepped",
                    remedy="call step() after the last micro-batch of each slot",
                )

    def _feed_slot(self, slot: Slot) -> Iterator[Any]:
        assert self._feed is not None
        for batch in self._feed.batches(slot.lease, lambda: self._slot is not slot):
            yield batch
            if self._slot is not slot:
                return
            self._worker.note_progress()

    def next_slot(self) -> Slot | None:
        """The next slot, with its weights in the model; None once the job has ended."""
        if self._slot is not None:
            self.give_back("left without run.step()")
        self._pushes.check()
        if self._ended is not None:
            return None
        try:
            lease = self._worker.next_lease()
            while lease.is_init:
                self._weights.push_first()
                lease = self._worker.next_lease()
        except JobEnded as ended:
            self._end(ended.why)
            return None
        self._weights.load()
        self._weights.restore_buffers()
        torch.manual_seed(lease.seed)
        self._slot_began = time.perf_counter()
        job, parameters = self._worker.job, self._weights.tensors.parameters.values()
        self._slot = Slot(lease, job, parameters, self._worker.note_progress, self._feed, self._overlap)
        return self._slot

    def step(self, weight: float | None = None, loss: float | None = None) -> StepResult:
        """Push the slot's gradient and clear `.grad`; new weights come with the next slot.

        `weight` and `loss` are for gradients that you made without `slot.backward()`: `.grad` then is the
        mean over the slot. Raises Refused, ServerUnavailable.
        """
        result = self.contribute(weight, loss)
        self._weights.clear_gradients()
        return result

    def contribute(self, weight: float | None = None, loss: float | None = None) -> StepResult:
        """`step`, but `.grad` is left as it is."""
        slot = self._slot
        if slot is None:
            raise Refused(
                "no slot is leased: call step() once for each slot of run.slots(), before the job ends"
            )
        outcome = slot.finish(weight, loss)
        usage = self._worker.usage
        usage.computed(time.perf_counter() - self._slot_began)
        usage.data_wait_seconds = self.data_wait_seconds
        if outcome.weight > m.WEIGHT_MIN and not self._weights.has_gradient:
            raise Refused("no parameter has a gradient: call slot.backward(loss) before run.step()")
        self._pushes.wait()
        flight = None if self._overlap is None else self._overlap.settle()
        parts, present = self._weights.contribution(slot.lease.seed)
        brought = () if self._overlap is None else self._overlap.brought(flight, slot.lease, parts)
        facts = m.Facts(outcome.samples, outcome.weight, self.version, present, outcome.loss, slot.metrics())
        self._slot = None
        answer = self._pushes.push(parts, facts, slot, brought)
        fate = partial(self._worker.outcome, slot.lease.attempt)
        return StepResult(slot.step, self.version, outcome.loss, answer, fate)

    def log(self, values: Mapping[str, float | Tensor]) -> None:
        """Numbers to see beside the loss: averaged by weight over a step's slots, shown with its version.

        Call it between a slot's `backward` and `step`; they are of the last micro-batch. Values that are not
        finite are left out. Raises Refused outside a slot.
        """
        if self._slot is None:
            raise Refused("run.log() belongs to a slot", remedy="call it before run.step()")
        self._slot.log(values)

    def chore(self, name: str, every: int) -> bool:
        """Whether this worker is to do a chore now: one of all does it for every so many versions.

        It is done when this worker asks for its next slot; if the worker dies before, another one is told to.
        """
        if self._ended is not None or max(self.version, 0) < self._chores_over.get(name, every):
            return False
        reply = self._worker.chore(name, every)
        if reply.is_over:
            self._chores_over[name] = reply.next_version
        return reply.is_yours

    def evaluated(self, metrics: Mapping[str, float], version: int | None = None) -> m.EvaluationReply:
        """Tell the server what a version is worth, by default the model's; the stop rule goes by it.

        Raises Refused, ServerUnavailable.
        """
        return self._worker.evaluated(metrics, self.version if version is None else version)

    def give_back(self, reason: str) -> None:
        """Hand the slot back at once, so that nobody waits for its lease to expire."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._worker.release(reason, (slot.lease.attempt,))

    def _close_feed(self) -> None:
        if self._feed is not None:
            self._feed.close()

    def _end(self, why: str) -> None:
        """The model takes the final weights along, if the shards are still there to give them."""
        self._ended = why
        self._close_feed()
        log.info("job %s has ended: %s", self.job, why)
        try:
            self._worker.pull(limit_seconds=FINAL_PULL_SECONDS)
            self._weights.load()
        except (Refused, ServerUnavailable, JobEnded) as error:
            log.warning("job %s: the final weights did not come, the model is older: %s", self.job, error)

    def close(self) -> None:
        """Hand leases back and leave the job. May be repeated."""
        self._slot, self._is_closed = None, True
        self._close_feed()
        self._pushes.close()
        self._worker.close()
        if self._overlap is not None:
            self._overlap.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
