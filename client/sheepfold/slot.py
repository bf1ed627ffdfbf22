"""One leased slot: which samples it covers, and the weighted mean of its micro-batches' gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import sheepfold_wire.messages as m
from sheepfold.errors import Refused
from sheepfold.loading import Feed
from sheepfold_wire.job import Job
from sheepfold_wire.samples import stream_indices


class Overlap(Protocol):
    """Lets gradients leave while the one backward of a slot runs."""

    def begin(self, lease: m.Lease) -> None:
        """It comes now."""

    def spoil(self) -> None:
        """Another one comes: what left is of no use."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a slot amounts to; goes into the contribution's facts."""

    samples: int
    weight: float
    loss: float | None


class Slot:
    """A lease, and the gradients computed for it so far.

    `.grad` holds the sum over micro-batches, each in units of the first one's weight, times the job's loss
    scale if it has one. `finish` makes it their weighted mean: a slot of one micro-batch has exactly the
    gradient of a plain `loss.backward()`.
    """

    def __init__(
        self,
        lease: m.Lease,
        job: Job,
        parameters: Iterable[Tensor],
        note_progress: Callable[[], None],
        feed: Feed | None = None,
        overlap: Overlap | None = None,
    ) -> None:
        self.lease, self._overlap = lease, overlap
        self._job = job
        self._parameters = list(parameters)
        self._note_progress = note_progress
        self._calls = 0
        self._is_weighed = False
        self._first_weight = 0.0
        self._total = 0.0
        self._loss: Tensor | None = None
        self._feed = feed
        self._last_weight = 1.0
        self._logged: dict[str, tuple[float | Tensor, float]] = {}
        """(weighted sum, weight) by name."""

    @property
    def step(self) -> int | None:
        """The job's step it belongs to; None in an asynchronous job, where the step is given on arrival."""
        return self.lease.step

    @property
    def samples(self) -> int:
        return self.lease.sample_count

    @property
    def loss_scale(self) -> float:
        """Factor on the loss that the server asks for, which `backward` applies; 1 if the job has none."""
        return self.lease.loss_scale or 1.0

    @property
    def sequence(self) -> int | None:
        """Sequence length in tokens that the job's plan asks for at this step; None if it names none."""
        return self.lease.sequence or None

    @cached_property
    def indices(self) -> npt.NDArray[np.int64]:
        """Which samples of the data set this slot is computed over; shape (samples,). Raises Refused."""
        data = self._job.data
        if data.mode != "indexed":
            raise Refused(
                f'data.mode = "{data.mode}": a slot names no samples; take {self.samples} of your own'
            )
        return stream_indices(data.samples, data.seed, self.lease.sample_start, self.lease.sample_count)

    @property
    def files(self) -> tuple[m.FileRange, ...]:
        """With data.mode = shards: where the slot's samples are."""
        return self.lease.files

    def __iter__(self) -> Iterator[Any]:
        """The micro-batches of the loader that `run.slots(loader)` was given. Raises Refused without one."""
        if self._feed is None:
            raise Refused(
                "this slot has no micro-batches of its own", remedy="give run.slots(loader) a loader"
            )
        return self._feed.batches(self.lease, self._is_full)

    def _is_full(self) -> bool:
        return self._total >= self.samples

    def log(self, values: Mapping[str, float | Tensor]) -> None:
        """Numbers of the last micro-batch, to be averaged by its weight."""
        for name, value in values.items():
            total, weight = self._logged.get(name, (0.0, 0.0))
            given = value.detach() if isinstance(value, Tensor) else value
            self._logged[name] = total + given * self._last_weight, weight + self._last_weight

    def metrics(self) -> tuple[m.Metric, ...]:
        """Means of what was logged; a value that is not finite is left out."""
        means = {name: float(total) / weight for name, (total, weight) in self._logged.items() if weight > 0}
        return tuple(m.Metric(name, mean) for name, mean in means.items() if math.isfinite(mean))

    def backward(self, loss: Tensor, weight: float | Tensor | None = None) -> None:
        """Add a micro-batch: `loss` is its mean, `weight` what that mean is over, in the job's unit.

        `weight` may be left out if leases name samples, the job weighs by samples and all micro-batches of
        the slot are equal. A micro-batch of weight 0 (every token masked) adds nothing, whatever its loss.
        Raises Refused.
        """
        given = self._checked(weight)
        if not self._calls:  # whatever an abandoned slot left in .grad is not of this one
            for parameter in self._parameters:
                parameter.grad = None
        self._calls += 1
        self._note_progress()
        self._last_weight = given
        if given == 0:
            return
        if self._overlap is not None:
            if self._first_weight == 0:
                self._overlap.begin(self.lease)
            else:
                self._overlap.spoil()
        if self._first_weight == 0:
            self._first_weight = given
        self._total += given
        part = given / self._first_weight
        factor = part * self.loss_scale
        torch.autograd.backward(loss if factor == 1 else loss * factor)
        share = loss.detach() * part
        self._loss = share if self._loss is None else self._loss + share

    def _checked(self, weight: float | Tensor | None) -> float:
        if weight is None:
            unweighed = why_weight_is_due(self._job)
            if unweighed:
                raise Refused(unweighed, field="weight", remedy="give slot.backward(loss, weight=...)")
        else:
            weight = positive_or_zero(float(weight.detach() if isinstance(weight, Tensor) else weight))
        if self._calls and self._is_weighed != (weight is not None):
            raise Refused(
                "slot.backward() was called with and without weight= in one slot: give it in all calls"
            )
        self._is_weighed = weight is not None
        return 1.0 if weight is None else weight

    def finish(self, weight: float | None = None, loss: float | None = None) -> Outcome:
        """Make `.grad` the weighted mean. `weight`, `loss`: of gradients that were not made by `backward`."""
        if not self._calls:
            return Outcome(*self._weighed(weight), loss)
        if weight is not None or loss is not None:
            raise Refused("slot.backward() has weighed this slot: call step() without weight and loss")
        if self._total == 0:
            return Outcome(self.samples, m.WEIGHT_MIN, None)
        share = self._first_weight / self._total
        factor = share / self.loss_scale
        if factor != 1:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        mean = None if self._loss is None else float(self._loss) * share
        return Outcome(*self._weighed(self._total if self._is_weighed else None), mean)

    def _weighed(self, weight: float | None) -> tuple[int, float]:
        """(samples, weight) to state; raises Refused if they contradict the lease."""
        unweighed = why_weight_is_due(self._job)
        if weight is None and unweighed:
            raise Refused(unweighed, field="weight", remedy="give the mean's number of them as weight=")
        if weight is not None and self._job.batch.weight == "tokens":
            return self.samples, positive_or_zero(weight) or m.WEIGHT_MIN
        if weight is None:
            return self.samples, float(self.samples)
        if self._job.data.mode == "free":
            return round(weight), positive_or_zero(weight) or m.WEIGHT_MIN
        if not math.isclose(weight, self.samples, rel_tol=1e-6):
            raise Refused(
                f"the weights of this slot add up to {weight:g}, but it covers {self.samples} samples: give "
                "each micro-batch its number of samples and leave none out"
            )
        return self.samples, float(self.samples)


def why_weight_is_due(job: Job) -> str:
    """Why the script must say what a mean is over; "" where the lease says it."""
    if job.batch.weight == "tokens":
        return 'batch.weight = "tokens", and only the script knows how many tokens are in a mean'
    if job.data.mode == "free":
        return 'data.mode = "free", and only the script knows how many samples are in a mean'
    return ""


def positive_or_zero(weight: float) -> float:
    if not math.isfinite(weight) or weight < 0:
        raise Refused(f"weight={weight}: give the number of samples or tokens behind the mean, 0 or more")
    return weight
