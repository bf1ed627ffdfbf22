"""A GradScaler for written loops whose scale is the job's, and so the same for all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sheepfold.errors import Refused

if TYPE_CHECKING:
    from sheepfold.optimizer import RemoteOptimizer


class GradScaler(torch.amp.GradScaler):
    """What `optimizer.grad_scaler()` gives: used as torch's own, but its scale is set by the server.

    A slot that overflows is told to the server: it skips the step and halves the scale of those that follow.
    """

    def __init__(self, optimizer: RemoteOptimizer) -> None:
        job = optimizer.run.worker.job
        if job.loss_scale is None:
            raise Refused(
                f"job {job.name} has no loss scale of its own",
                remedy="create it with a table [loss_scale], or use torch.amp.GradScaler",
            )
        self._optimizer = optimizer
        device = optimizer.param_groups[0]["params"][0].device.type
        super().__init__(device, init_scale=job.loss_scale.initial)
        self._follow()

    def _follow(self) -> None:
        """Take over the scale of the slot being computed, if there is one."""
        slot = self._optimizer.run.slot
        if slot is None:
            return
        if self._scale is None:
            self._init_scale = slot.loss_scale
        else:
            self._scale.fill_(slot.loss_scale)

    def scale(self, outputs: Any) -> Any:
        """As torch's, at the scale of the slot being computed."""
        self._follow()
        return super().scale(outputs)

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        """Gets ready for the next step; a `new_scale` has no effect."""
        super().update(new_scale=self.get_scale())
        self._follow()
