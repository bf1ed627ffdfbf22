"""Weights, moments and counters come out the same for any shards, workers, arrival orders and transport."""

from __future__ import annotations

import random
import threading
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.integration.harness import (
    SmallNet,
    digest_of,
    running_fold,
    slot_loss,
    small_data,
    small_job,
    train,
    train_with,
    weights_of,
)
from tests.oracle.lamb_float64 import Lamb, clipped

import sheepfold
from sheepfold_server.core.batch import BatchPlan
from sheepfold_wire.samples import stream_indices
from sheepfold_wire.schedule import learning_rate


@cache
def golden() -> str:
    """The digest after one worker has trained on one shard, undisturbed."""
    with running_fold(1) as fold:
        train(fold.address, small_job())
        return digest_of(fold.address, "small")


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_state_is_the_same_for_any_number_of_shards(shards: int) -> None:
    """One tensor of four blocks lies on up to four of them; its norms are exchanged."""
    with running_fold(shards) as fold:
        train(fold.address, small_job())
        status = fold.fleet.status("small")
        assert status.version == 4
        assert sum(s.parameters > 10_000 for s in status.shards) == min(shards, 4)
        assert digest_of(fold.address, "small") == golden()


@pytest.mark.parametrize("workers", [2, 4])
def test_state_is_the_same_for_any_number_of_workers(workers: int) -> None:
    with running_fold(2) as fold:
        train_with(fold.address, small_job(), workers)
        assert digest_of(fold.address, "small") == golden()


def test_state_of_an_int8_job_is_the_same_for_any_shards_workers_and_transport() -> None:
    """What is rounded at random is rounded alike, by whoever computes a slot and wherever its rows go."""
    job = small_job(wire={"up": "int8"})
    digests = set()
    for shards, workers in ((1, 1), (2, 3), (3, 2)):
        with running_fold(shards) as fold:
            train_with(fold.address, job, workers)
            assert fold.fleet.status("small").version == 4
            digests.add(digest_of(fold.address, "small"))
    train("local:?shards=2", job)
    digests.add(digest_of("local:?shards=2", "small"))
    assert len(digests) == 1
    assert golden() not in digests


def test_numpy_and_torch_workers_round_an_int8_job_alike() -> None:
    """Gradients of the weights themselves: both sides compute them to the last bit."""
    job = small_job(wire={"up": "int8"}, init={"from": "first-worker"})
    digests = []
    for number in range(2):
        with running_fold(2) as fold:
            if number == 0:
                with sheepfold.Client("small", numpy_weights(), address=fold.address, config=job) as client:
                    while client.lease() is not None:
                        client.push(dict(client.weights), loss=0.0)
            else:
                model = SmallNet()
                with sheepfold.attach(model, address=fold.address, config=job) as run:
                    for slot in run.slots():
                        for parameter in model.parameters():
                            parameter.grad = parameter.detach().clone()
                        run.step(weight=slot.samples, loss=0.0)
            digests.append(digest_of(fold.address, "small"))
    assert digests[0] == digests[1]


def numpy_weights() -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in SmallNet().named_parameters()}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_state_is_the_same_for_shuffled_arrival_orders(seed: int) -> None:
    """Every step's slots are pushed in an order drawn from the seed, by as many workers as slots."""
    print(f"seed {seed}")
    order = random.Random(seed)
    turns = _Turns(slots=8, steps=4, order=order)
    with running_fold(3) as fold:
        train_with(fold.address, small_job(), workers=8, before_push=turns.wait)
        assert digest_of(fold.address, "small") == golden()
    assert turns.arrived == turns.planned


class _Turns:
    """Lets the slots of each step go in a drawn order."""

    def __init__(self, slots: int, steps: int, order: random.Random) -> None:
        self.planned = [(step, slot) for step in range(steps) for slot in order.sample(range(slots), slots)]
        self.arrived: list[tuple[int, int]] = []
        self._changed = threading.Condition()

    def wait(self, slot: Any) -> None:
        place = (slot.lease.step, slot.lease.slot)
        with self._changed:
            assert self._changed.wait_for(lambda: self.planned[len(self.arrived)] == place, 30.0)
            self.arrived.append(place)
            self._changed.notify_all()


@pytest.mark.parametrize("shards", [1, 3])
def test_state_is_the_same_in_one_process_without_sockets(shards: int) -> None:
    train(f"local:?shards={shards}", small_job())
    assert digest_of(f"local:?shards={shards}", "small") == golden()


@pytest.mark.parametrize(("up", "tolerance"), [("bf16", 0.02), ("int8", 0.2)])
def test_weights_equal_a_float64_oracle_to_the_rounding_of_fp32_and_the_codec(
    up: str, tolerance: float
) -> None:
    """The oracle knows neither slots nor shards: whole batches, one process, the paper's formulas.

    Tolerance: a step moves a tensor by lr * ||w||; gradients travel as bf16 (2^-9 relative), the direction
    normalises them, so after four steps 2 % of the movement remains, measured below 0.6 %. Under int8 it is
    the row's largest gradient whose 127th part is the step, and the direction divides each element by its own
    size: measured 13 % of the movement in `wide`, 2.4 % in `out`.
    """
    job = small_job(wire={"up": up})
    plan, (x, y) = BatchPlan(job), small_data()
    model = SmallNet().double()
    oracle = Lamb({name: p.detach().numpy() for name, p in model.named_parameters()})
    begin = {name: w.copy() for name, w in oracle.x.items()}
    for step in range(job.stop.steps):
        indices = torch.from_numpy(stream_indices(job.data.samples, job.data.seed, *_whole_batch(plan, step)))
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(torch.as_tensor(oracle.x[name]))
        model.zero_grad()
        slot_loss(model, x[indices].double(), y[indices].double()).backward()
        gradient = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        rate = learning_rate(job, step)
        oracle.step(clipped(gradient, 1.0), rate)
    with running_fold(2) as fold:
        train(fold.address, job)
        found = weights_of(fold.address, "small")
    for name, expected in oracle.x.items():
        moved = np.linalg.norm(expected - begin[name])
        assert np.linalg.norm(found[name] - expected) <= tolerance * moved + 1e-7, name


def _whole_batch(plan: BatchPlan, step: int) -> tuple[int, int]:
    return plan.offset(step), plan.samples(step)


def test_unequal_weights_equal_one_big_batch() -> None:
    """Slots of 4 samples in which 1 to 4 count: their weighted mean is the mean over all that count."""
    job = small_job(
        batch={"samples": 32, "slot_samples": 4, "weight": "tokens"},
        optimizer={"lr": {"peak": 0.02}, "clip_norm": 1.0},
        stop={"steps": 1},
        wire={"up": "fp32"},
    )
    x, y = small_data()
    model = SmallNet()
    oracle = Lamb({name: p.detach().numpy() for name, p in model.named_parameters()})
    counted: list[int] = []
    with running_fold(2) as fold:
        with sheepfold.attach(model, job="small", address=fold.address, config=job) as run:
            for number, slot in enumerate(run.slots()):
                indices = torch.from_numpy(np.array(slot.indices[: 1 + number % 4]))
                counted += indices.tolist()
                slot.backward(slot_loss(model, x[indices], y[indices]), weight=len(indices))
                run.step()
        found = weights_of(fold.address, "small")
    fresh = SmallNet()
    chosen = torch.tensor(counted)
    slot_loss(fresh, x[chosen], y[chosen]).backward()
    gradient = {n: p.grad.double().numpy() for n, p in fresh.named_parameters() if p.grad is not None}
    rate = learning_rate(job, 0)
    oracle.step(clipped(gradient, 1.0), rate)
    for name, expected in oracle.x.items():
        np.testing.assert_allclose(found[name], expected, rtol=2e-4, atol=2e-6, err_msg=name)
