"""The loss scale of a job that trains in fp16: one for all workers, a function of the steps alone."""

from __future__ import annotations

from dataclasses import dataclass

SCALE_MIN, SCALE_MAX = 1.0, 2.0**24
UNSCALED = 0.0
"""Of a job without a loss scale."""


@dataclass(slots=True)
class LossScale:
    """Factor on the loss before backward, in force for steps that open from now on.

    An overflow halves it and `growth_steps` applied steps in a row double it, as torch.amp.GradScaler does.
    """

    value: float = UNSCALED
    applied: int = 0
    """Steps applied since it changed last."""

    def committed(self, used: float, overflowed: bool, is_skip: bool, growth_steps: int) -> None:
        """Move on after a step whose gradients were computed at scale `used`.

        With several open steps one scale can overflow in each of them; it is halved once.
        """
        if overflowed:
            self.value, self.applied = max(SCALE_MIN, min(self.value, used / 2)), 0
        elif not is_skip:
            self.applied += 1
            if self.applied == growth_steps:
                self.value, self.applied = min(SCALE_MAX, self.value * 2), 0


def overflows(scale: float) -> bool:
    """Whether a gradient that is not finite may be due to the scale; at 1 it is the model or the data."""
    return scale > SCALE_MIN
