"""A learning-rate schedule that lives in the script, written down for the server."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from sheepfold.errors import Refused
from sheepfold_wire.optimizer import TABLE_STEPS_MAX


def tabulated(
    make_scheduler: Callable[[torch.optim.Optimizer], Any], peak: float, steps: int
) -> dict[str, Any]:
    """`optimizer.lr` of a job file whose rate of step t is that of your scheduler after t of its steps.

        lr = sheepfold.tabulated(lambda o: CosineAnnealingLR(o, 900), peak=0.01, steps=900)

    `make_scheduler` gets an optimizer with the learning rate `peak`. One that waits for a metric
    (ReduceLROnPlateau) has no table: change the rate with `sheepfold job set optimizer.lr.peak` instead.
    Raises Refused.
    """
    if not 0 < steps <= TABLE_STEPS_MAX:
        raise Refused(f"steps = {steps}", remedy=f"give 1 to {TABLE_STEPS_MAX}")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = make_scheduler(optimizer)
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise Refused(
            "ReduceLROnPlateau decides by a metric and cannot be tabulated",
            remedy="change the rate while the job runs: sheepfold job set optimizer.lr.peak=...",
        )
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of schedulers that miss a step of the optimizer
        for _ in range(steps):
            values.append(float(optimizer.param_groups[0]["lr"]))
            scheduler.step()
    return {"peak": max(values), "schedule": "table", "values": values}
