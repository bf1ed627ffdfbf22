"""Training in fp16 at the server's loss scale: scales and weights are those that torch's GradScaler makes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.integration.harness import running_fold

import sheepfold
from sheepfold_wire.job import parse_job
from sheepfold_wire.samples import stream_indices

SAMPLES, STEPS, PEAK, INITIAL, GROWTH_STEPS = 64, 14, 0.05, 2.0**20, 3


def job_with(slots: int) -> sheepfold.Job:
    return parse_job(
        {
            "name": "half",
            "batch": {"samples": 16, "slot_samples": 16 // slots},
            "data": {"samples": SAMPLES, "seed": 3},
            "optimizer": {"rule": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": {"peak": PEAK}},
            "wire": {"up": "fp32"},
            "stop": {"steps": STEPS},
            "loss_scale": {"initial": INITIAL, "growth_steps": GROWTH_STEPS},
        }
    )


def data() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(17)
    inputs = torch.randn(SAMPLES, 8, generator=draw)
    return inputs, inputs @ torch.randn(8, 4, generator=draw)


def model() -> torch.nn.Sequential:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))


def loss_of(net: torch.nn.Module, indices: Any) -> torch.Tensor:
    inputs, targets = data()
    with torch.autocast("cpu", dtype=torch.float16):
        outputs = net(inputs[indices])
    return torch.nn.functional.mse_loss(outputs.float(), targets[indices])


def by_torch() -> tuple[list[float], torch.nn.Module]:
    """(scale of each step, model) of a local loop with torch's GradScaler, the samples those of the job."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=PEAK)
    scaler = torch.amp.GradScaler("cpu", init_scale=INITIAL, growth_interval=GROWTH_STEPS)
    scales = []
    for step in range(STEPS):
        scales.append(scaler.get_scale())
        optimizer.zero_grad()
        scaler.scale(loss_of(net, stream_indices(SAMPLES, 3, step * 16, 16))).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
    return scales, net


def check(scales: list[float], net: torch.nn.Module) -> None:
    due_scales, due = by_torch()
    assert scales == due_scales
    assert min(scales) < INITIAL < 2 * INITIAL  # it did overflow
    assert any(later > earlier for earlier, later in pairwise(scales))  # and grew again
    for mine, theirs in zip(net.parameters(), due.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shards", [1, 2])
def test_slots_scaled_by_the_server_follow_torchs_scaler(shards: int) -> None:
    scales, net = [], model()
    with running_fold(shards) as fold, sheepfold.attach(net, address=fold.address, config=job_with(1)) as run:
        for slot in run.slots():
            scales.append(slot.loss_scale)
            slot.backward(loss_of(net, slot.indices))
            run.step()
        check(scales, net)


def test_a_written_loop_with_the_servers_scaler_follows_torchs_scaler() -> None:
    scales, net = [], model()
    with running_fold(2) as fold:
        optimizer = sheepfold.RemoteOptimizer(
            net.named_parameters(), address=fold.address, config=job_with(1)
        )
        scaler = optimizer.grad_scaler()
        while not optimizer.has_ended:
            assert optimizer.run.slot is not None
            scales.append(scaler.get_scale())
            optimizer.zero_grad()
            scaler.scale(loss_of(net, optimizer.run.slot.indices)).backward()
            scaler.step(optimizer)
            scaler.update()
        optimizer.run.close()
    check(scales, net)
