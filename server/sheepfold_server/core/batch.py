"""The batch plan: slots, samples and place in the sample stream as functions of the step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from sheepfold_wire.job import Job
from sheepfold_wire.messages import SampleRange


@dataclass(frozen=True, slots=True)
class _Part:
    first_step: int
    first_sample: int
    samples: int
    slot_samples: int
    sequence: int


class BatchPlan:
    """B(t), K(t) and offset(t) of a job. Beyond the last stage the last stage goes on.

    `gaps` are places of the sample stream that no slot covers: the slot that would reach into one begins
    behind it, and so do all after it.
    """

    def __init__(self, job: Job, gaps: Iterable[SampleRange] = ()) -> None:
        batch = job.batch
        parts: list[_Part] = []
        step = sample = 0
        for stage in batch.stage:
            samples, slot = stage.samples or batch.samples, stage.slot_samples or batch.slot_samples
            parts.append(_Part(step, sample, samples, slot, stage.sequence or 0))
            step, sample = step + stage.steps, sample + stage.steps * samples
        self._parts = parts or [_Part(0, 0, batch.samples, batch.slot_samples, 0)]
        self._firsts = [part.first_step for part in self._parts]
        self._jumps: list[tuple[int, int]] = []
        """(position without gaps, samples): from there on slots lie that much further on."""
        self.gaps = _merged(gaps)
        for gap in self.gaps:
            shift = sum(samples for _, samples in self._jumps)
            first = self._slot_start(max(0, gap.start - shift))
            self._jumps.append((first, gap.start + gap.count - first - shift))

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

    def _slot_start(self, position: int) -> int:
        """Without gaps: where the slot begins that covers the position."""
        part = self._parts[bisect_right([p.first_sample for p in self._parts], position) - 1]
        return position - (position - part.first_sample) % part.slot_samples

    def offset(self, step: int) -> int:
        """Samples of all steps before step t: its first position in a sample stream without gaps."""
        part = self._part(step)
        return part.first_sample + (step - part.first_step) * part.samples

    def slot_range(self, step: int, slot: int) -> tuple[int, int]:
        """(start, count) of a slot in the sample stream."""
        count = self.slot_samples(step)
        start = self.offset(step) + slot * count
        return start + sum(samples for first, samples in self._jumps if first <= start), count


def _merged(gaps: Iterable[SampleRange]) -> tuple[SampleRange, ...]:
    """In order; those that overlap or touch are one."""
    merged: list[SampleRange] = []
    for gap in sorted(gaps, key=lambda gap: gap.start):
        if merged and gap.start <= merged[-1].start + merged[-1].count:
            last = merged.pop()
            gap = SampleRange(last.start, max(last.count, gap.start + gap.count - last.start))
        merged.append(gap)
    return tuple(merged)
