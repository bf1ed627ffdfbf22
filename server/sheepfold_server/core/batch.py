"""The batch plan: slots, samples and place in the sample stream as functions of the step."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from sheepfold_wire.job import Job


@dataclass(frozen=True, slots=True)
class _Part:
    first_step: int
    first_sample: int
    samples: int
    slot_samples: int
    sequence: int


class BatchPlan:
    """B(t), K(t) and offset(t) of a job. Beyond the last stage the last stage goes on."""

    def __init__(self, job: Job) -> None:
        batch = job.batch
        parts: list[_Part] = []
        step = sample = 0
        for stage in batch.stage:
            samples, slot = stage.samples or batch.samples, stage.slot_samples or batch.slot_samples
            parts.append(_Part(step, sample, samples, slot, stage.sequence or 0))
            step, sample = step + stage.steps, sample + stage.steps * samples
        self._parts = parts or [_Part(0, 0, batch.samples, batch.slot_samples, 0)]
        self._firsts = [part.first_step for part in self._parts]

    def _part(self, step: int) -> _Part:
        return self._parts[bisect_right(self._firsts, step) - 1]

    def samples(self, step: int) -> int:
        """Global batch B(t)."""
        return self._part(step).samples

    def slot_samples(self, step: int) -> int:
        return self._part(step).slot_samples

    def slots(self, step: int) -> int:
        """K(t) = B(t) / slot_samples(t)."""
        part = self._part(step)
        return part.samples // part.slot_samples

    def sequence(self, step: int) -> int:
        """Sequence length of the step's stage in tokens; 0 if it names none."""
        return self._part(step).sequence

    def offset(self, step: int) -> int:
        """First position of step t in the sample stream: the samples of all steps before it."""
        part = self._part(step)
        return part.first_sample + (step - part.first_step) * part.samples

    def slot_range(self, step: int, slot: int) -> tuple[int, int]:
        """(start, count) of a slot in the sample stream."""
        count = self.slot_samples(step)
        return self.offset(step) + slot * count, count
