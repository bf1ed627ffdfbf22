"""sheepfold.schedules: a scheduler of the script as a table of the job file."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

from sheepfold.errors import Refused
from sheepfold.schedules import tabulated
from sheepfold_wire.job import parse_job
from sheepfold_wire.schedule import learning_rate

SCHEDULERS = {
    "cosine": lambda o: CosineAnnealingLR(o, 20),
    "one cycle": lambda o: OneCycleLR(o, max_lr=0.3, total_steps=21),
    "warm-up": lambda o: LambdaLR(o, lambda t: min(1.0, (t + 1) / 5)),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_server_gives_each_step_the_rate_of_the_scheduler_to_the_bit(name: str) -> None:
    lr = tabulated(SCHEDULERS[name], peak=0.1, steps=20)
    values = {"samples": 8, "slot_samples": 8}
    job = parse_job(
        {
            "name": "j",
            "batch": values,
            "data": {"mode": "free"},
            "optimizer": {"lr": lr},
            "stop": {"steps": 20},
        }
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler: Any = SCHEDULERS[name](optimizer)
    for step in range(20):
        assert learning_rate(job, step) == optimizer.param_groups[0]["lr"], f"step {step}"
        optimizer.step()
        scheduler.step()
    assert learning_rate(job, 1000) == lr["values"][-1]


def test_a_scheduler_that_waits_for_a_metric_has_no_table() -> None:
    with pytest.raises(Refused, match=r"sheepfold job set optimizer\.lr\.peak"):
        tabulated(ReduceLROnPlateau, peak=0.1, steps=20)


@pytest.mark.parametrize("steps", [0, 200_001])
def test_too_few_or_too_many_steps_are_refused(steps: int) -> None:
    with pytest.raises(Refused, match="give 1 to 200000"):
        tabulated(SCHEDULERS["cosine"], peak=0.1, steps=steps)
