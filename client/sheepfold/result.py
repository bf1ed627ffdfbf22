"""What became of one contribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import sheepfold_wire.messages as m
from sheepfold.events import Ended, Ready


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of one slot.

    `version` is the one the gradient was computed at. `loss` is the slot's weighted mean, if losses were
    given; in a process group, that of this rank's share.
    """

    step: int | None
    version: int
    loss: float | None
    answer: Callable[[], Ready | Ended] = field(repr=False, compare=False)
    """Of its push; waits for it."""
    fate: Callable[[], m.AttemptEnd | None] = field(repr=False, compare=False)
    """Asks the session what it has heard."""

    @property
    def counted(self) -> bool:
        """Every shard has staged it; it may still lose its slot to an equal of another worker.

        False if the lease was lost meanwhile; nothing is wrong then either, and the next slot brings the
        newest weights. In a job with `delay` it is pushed beside what comes next, and asking waits for the
        push. Raises what that raised: Refused, ServerUnavailable.
        """
        answer = self.answer()
        return isinstance(answer, Ready) and answer.is_counted

    @property
    def why(self) -> str:
        """Why it does not count; waits and raises as `counted` does."""
        return self.answer().why

    @property
    def committed(self) -> bool | None:
        """Whether it is part of a committed step; None while that is open, or was never heard of.

        It becomes known some time after `run.step()`, with a later lease or heartbeat.
        """
        if not self.counted:
            return False
        end = self.fate()
        return None if end is None else end.is_committed
