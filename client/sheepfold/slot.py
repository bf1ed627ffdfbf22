"""One leased slot: which samples it covers, and the weighted mean of its micro-batches' gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import sheepfold_wire.messages as m
from sheepfold.errors import Refused
from sheepfold_wire.job import Job
from sheepfold_wire.samples import stream_indices


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a slot amounts to; goes into the contribution's facts."""

    samples: int
    weight: float
    loss: float | None


class Slot:
    """A lease, and the gradients computed for it so far.

    `.grad` holds the sum over micro-batches, each in units of the first one's weight, until `finish` makes it
    their weighted mean: a slot of one micro-batch has exactly the gradient of a plain `loss.backward()`.
    """

    def __init__(
        self, lease: m.Lease, job: Job, parameters: Iterable[Tensor], note_progress: Callable[[], None]
    ) -> None:
        self.lease = lease
        self._job = job
        self._parameters = list(parameters)
        self._note_progress = note_progress
        self._calls = 0
        self._is_weighed = False
        self._first_weight = 0.0
        self._total = 0.0
        self._loss: Tensor | None = None

    @property
    def step(self) -> int | None:
        """The job's step it belongs to; None in an asynchronous job, where the step is given on arrival."""
        return self.lease.step

    @property
    def samples(self) -> int:
        return self.lease.sample_count

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

    def backward(self, loss: Tensor, weight: float | Tensor | None = None) -> None:
        """Add a micro-batch: `loss` is its mean, `weight` what that mean is over, in the job's unit.

        `weight` may be left out if the job weighs by samples and all micro-batches of the slot are equal. A
        micro-batch of weight 0 (every token masked) adds nothing, whatever its loss. Raises Refused.
        """
        given = self._checked(weight)
        if not self._calls:  # whatever an abandoned slot left in .grad is not of this one
            for parameter in self._parameters:
                parameter.grad = None
        self._calls += 1
        self._note_progress()
        if given == 0:
            return
        if self._first_weight == 0:
            self._first_weight = given
        self._total += given
        part = given / self._first_weight
        torch.autograd.backward(loss if part == 1 else loss * part)
        share = loss.detach() * part
        self._loss = share if self._loss is None else self._loss + share

    def _checked(self, weight: float | Tensor | None) -> float:
        if weight is None:
            if self._job.batch.weight == "tokens":
                raise Refused(
                    'batch.weight = "tokens": give slot.backward(loss, weight=...), the tokens in the mean'
                )
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
        scale = self._first_weight / self._total
        if scale != 1:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(scale)
        mean = None if self._loss is None else float(self._loss) * scale
        return Outcome(*self._weighed(self._total if self._is_weighed else None), mean)

    def _weighed(self, weight: float | None) -> tuple[int, float]:
        """(samples, weight) to state; raises Refused if they contradict the lease."""
        if self._job.batch.weight == "tokens":
            if weight is None:
                raise Refused('batch.weight = "tokens": give the number of tokens behind the mean as weight=')
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


def positive_or_zero(weight: float) -> float:
    if not math.isfinite(weight) or weight < 0:
        raise Refused(f"weight={weight}: give the number of samples or tokens behind the mean, 0 or more")
    return weight
