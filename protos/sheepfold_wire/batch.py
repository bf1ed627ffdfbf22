"""The [batch] table of a job file: the global batch, its slots, its stages, and how old weights may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sheepfold_wire.optimizer import LearningRate
from sheepfold_wire.validation import Positive, Section


class Stage(Section):
    """One part of the batch plan; a value left out is that of [batch] or [optimizer]."""

    steps: Positive
    samples: Positive | None = None
    slot_samples: Positive | None = None
    sequence: Positive | None = None
    """Sequence length in tokens; told to the workers with each lease."""
    rewarm: bool = False
    """The learning rate's schedule begins again with this stage, warm-up included."""
    lr: LearningRate | None = None
    """Of a stage with `rewarm`: another schedule than [optimizer]'s."""

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if self.lr is not None and not self.rewarm:
            raise ValueError("[[batch.stage]] lr begins a schedule of its own: add rewarm = true")
        return self


class Batch(Section):
    """The global batch, constant while workers come and go."""

    samples: Positive
    slot_samples: Positive
    weight: Literal["samples", "tokens"] = "samples"
    absent: Literal["zero", "refuse"] = "zero"
    delay: Annotated[int, Field(ge=0, le=8)] = 0
    max_staleness: Annotated[int, Field(ge=0, le=8)] | Literal["unbounded"] = 0
    stage: tuple[Stage, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _check(self) -> Batch:
        for number, stage in enumerate((Stage(steps=1), *self.stage)):
            samples, slot = stage.samples or self.samples, stage.slot_samples or self.slot_samples
            if samples % slot:
                where = "[batch]" if number == 0 else f"[[batch.stage]] number {number}"
                raise ValueError(
                    f"{where}: samples = {samples} is not divisible by slot_samples = {slot}; "
                    f"the nearest that divides it is {_nearest_divisor(samples, slot)}"
                )
        if self.delay and self.max_staleness:
            raise ValueError(
                f"delay = {self.delay} and max_staleness = {self.max_staleness} exclude each other; "
                "set one to 0"
            )
        if self.is_asynchronous and any(s.samples or s.slot_samples for s in self.stage):
            raise ValueError('max_staleness = "unbounded" keeps one batch size; remove [[batch.stage]]')
        if self.is_asynchronous and self.samples != self.slot_samples:
            raise ValueError(
                f'max_staleness = "unbounded" makes every slot a step: slot_samples = {self.slot_samples} '
                f"must equal samples = {self.samples}"
            )
        return self

    @property
    def is_asynchronous(self) -> bool:
        return self.max_staleness == "unbounded"

    @property
    def open_steps(self) -> int:
        """Steps that may be open at once: s + 1 for a delay or staleness of s, 1 if asynchronous."""
        return 1 if self.is_asynchronous else self.delay + int(self.max_staleness) + 1


def _nearest_divisor(samples: int, slot: int) -> int:
    return min(
        (d for d in range(1, min(samples, 1 << 20) + 1) if samples % d == 0), key=lambda d: abs(d - slot)
    )
