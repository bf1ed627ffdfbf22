"""Gradients that leave while backward runs, with real servers: the same bits, and most of them early."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

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
)

import sheepfold
import sheepfold.overlap
import sheepfold_wire.messages as m
from sheepfold.transport import Ranges, TransportError
from sheepfold.transport.grpc import GrpcTransport
from sheepfold.transport.shared_memory import VARIABLE
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.errors import StaleIncarnation
from sheepfold_wire.job import Job


@pytest.fixture(autouse=True)
def _frames_and_small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    monkeypatch.setattr(sheepfold.overlap, "BUCKET_BYTES", 1)


class Watched(GrpcTransport):
    """Counts what is pushed ahead, and what of it spares the push after it."""

    def __init__(self, address: Any, **given: Any) -> None:
        super().__init__(address, **given)
        self.ahead_bytes = self.spared_bytes = self.pushes = 0

    def push_ahead(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, ranges: Ranges
    ) -> bool:
        is_brought = super().push_ahead(address, header, payload, ranges)
        self.ahead_bytes += is_brought * sum(map(len, ranges))
        return is_brought

    def push(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, brought: Ranges = ()
    ) -> m.PushReply:
        if header.facts.samples:
            self.pushes += 1
            self.spared_bytes += sum(map(len, brought))
        return super().push(address, header, payload, brought)


def job_in(codec: str, **changes: Any) -> Job:
    return small_job(wire={"up": codec}, **changes)


@cache
def golden(codec: str) -> str:
    with running_fold(1) as fold:
        train(fold.address, job_in(codec))
        return digest_of(fold.address, "small")


def parameter_bytes(codec: str, shards: int) -> int:
    """Of all parts of a contribution: everything here is a parameter, in rows."""
    with running_fold(shards) as fold:
        train(fold.address, job_in(codec), until_step=0)
        with sheepfold.Client("small", address=fold.address) as client:
            plan = client._worker.plan
    return sum(plan.rows(shard) * Codec(codec).row_bytes for shard in range(shards))


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("shards", [1, 3])
def test_bits_are_those_of_a_push_in_step_and_every_gradient_has_left_before_it(
    codec: str, shards: int
) -> None:
    with running_fold(shards) as fold:
        transport = Watched(fold.address)
        results = train(transport, job_in(codec), overlap=True)
        assert digest_of(fold.address, "small") == golden(codec)
        assert all(result.counted for result in results)
        due = len(results) * parameter_bytes(codec, shards)
        assert (transport.ahead_bytes, transport.spared_bytes) == (due, due)


def test_workers_with_and_without_give_the_same_bits() -> None:
    with running_fold(2) as fold:
        train_with(fold.address, small_job(), 2)
        alone = digest_of(fold.address, "small")
    with running_fold(2) as fold:
        pair = [Watched(fold.address), Watched(fold.address)]

        threads = [
            threading.Thread(target=train, args=(transport, small_job()), kwargs={"overlap": bool(index)})
            for index, transport in enumerate(pair)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert digest_of(fold.address, "small") == alone
        assert pair[0].ahead_bytes == 0
        assert pair[1].spared_bytes == pair[1].ahead_bytes > 0


def test_nothing_leaves_early_through_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of this host copies the part when it is whole: there is no way to spare."""
    monkeypatch.delenv(VARIABLE)
    with running_fold(2) as fold:
        transport = Watched(fold.address)
        train(transport, small_job(), overlap=True)
        assert digest_of(fold.address, "small") == golden("bf16")
        ahead, slots = transport.ahead_bytes, transport.pushes // 2
        assert ahead <= 8 * parameter_bytes("bf16", 2) < slots * parameter_bytes("bf16", 2)


# --- gradients that change after backward ---------------------------------------------------------------


def clipped(address: Any, overlap: bool) -> None:
    """A script that clips by itself, between backward and step."""
    model, (x, y) = SmallNet(), small_data()
    with sheepfold.attach(model, address=address, config=small_job(), threads=1, overlap=overlap) as run:
        for slot in run.slots():
            indices = torch.from_numpy(slot.indices)
            slot.backward(slot_loss(model, x[indices], y[indices]))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            run.step()


def test_gradients_clipped_after_backward_are_pushed_as_they_are_then() -> None:
    with running_fold(2) as fold:
        clipped(fold.address, False)
        due = digest_of(fold.address, "small")
    assert due != golden("bf16")
    with running_fold(2) as fold:
        transport = Watched(fold.address)
        clipped(transport, True)
        assert digest_of(fold.address, "small") == due
        assert 0 < transport.ahead_bytes < transport.pushes * parameter_bytes("bf16", 2) // 2


def unscaled(address: Any, overlap: bool) -> None:
    """As torch.amp does it, past torch's own count of changes of a tensor."""
    model, (x, y) = SmallNet(), small_data()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1_000)
    with sheepfold.attach(model, address=address, config=small_job(), threads=1, overlap=overlap) as run:
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        for slot in run.slots():
            indices = torch.from_numpy(slot.indices)
            slot.backward(scaler.scale(slot_loss(model, x[indices], y[indices])))
            scaler.unscale_(optimizer)
            scaler.update()
            run.step()


def halved(address: Any, overlap: bool) -> None:
    model, (x, y) = SmallNet(), small_data()
    with sheepfold.attach(model, address=address, config=small_job(), threads=1, overlap=overlap) as run:
        for slot in run.slots():
            indices = torch.from_numpy(slot.indices)
            slot.backward(slot_loss(model, x[indices], y[indices]))
            assert model.wide.grad is not None
            model.wide.grad.data[0, 0] *= 0.5
            run.step()


@pytest.mark.parametrize("script", [unscaled, halved])
def test_changes_that_torch_does_not_count_are_pushed_too(script: Callable[[Any, bool], None]) -> None:
    digests = []
    for overlap in (False, True):
        with running_fold(2) as fold:
            script(fold.address, overlap)
            digests.append(digest_of(fold.address, "small"))
    assert digests[0] == digests[1]


def in_halves(address: Any, overlap: bool) -> None:
    model, (x, y) = SmallNet(), small_data()
    with sheepfold.attach(model, address=address, config=small_job(), threads=1, overlap=overlap) as run:
        for slot in run.slots():
            for half in torch.from_numpy(slot.indices).chunk(2):
                slot.backward(slot_loss(model, x[half], y[half]))
            run.step()


def test_slot_of_two_micro_batches_is_pushed_in_step(caplog: pytest.LogCaptureFixture) -> None:
    with running_fold(2) as fold:
        in_halves(fold.address, False)
        due = digest_of(fold.address, "small")
    with running_fold(2) as fold, caplog.at_level(logging.WARNING, "sheepfold"):
        transport = Watched(fold.address)
        in_halves(transport, True)
        assert digest_of(fold.address, "small") == due
        assert transport.spared_bytes == 0
    said = [r.getMessage() for r in caplog.records if "overlap=True has no effect" in r.getMessage()]
    assert said == [
        "job small: overlap=True has no effect: gradients change after backward, by another one or the "
        "script (such as clipping)"
    ]


def test_parameter_without_a_gradient_is_absent_as_ever() -> None:
    def absent(address: Any, overlap: bool) -> None:
        model, (x, y) = SmallNet(), small_data()
        job = small_job(optimizer={"lr": {"peak": 0.02, "schedule": "constant"}})
        with sheepfold.attach(model, address=address, config=job, threads=1, overlap=overlap) as run:
            for slot in run.slots():
                indices = torch.from_numpy(slot.indices)
                hidden = torch.tanh(x[indices] @ model.wide.T)
                slot.backward(((hidden @ model.out.T).squeeze(1) - y[indices]).square().mean())
                run.step()

    digests = []
    for overlap in (False, True):
        with running_fold(2) as fold:
            absent(fold.address, overlap)
            digests.append(digest_of(fold.address, "small"))
    assert digests[0] == digests[1]


# --- what goes wrong on the way -------------------------------------------------------------------------


class Lies(Watched):
    """Says that it has brought what it has not."""

    def push_ahead(self, *given: Any) -> bool:
        return True


class Alters(Watched):
    """Brings other bytes than those of the part."""

    def push_ahead(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, ranges: Ranges
    ) -> bool:
        return super().push_ahead(address, header, bytes(len(payload)), ranges)


class Fails(Watched):
    """Every other piece is lost on the way."""

    calls = 0

    def push_ahead(self, *given: Any) -> bool:
        self.calls += 1
        if self.calls % 4 == 1:
            raise TransportError("the link broke")
        if self.calls % 4 == 3:
            raise StaleIncarnation("that process is gone; attach again")
        return super().push_ahead(*given)


class Misplaces(Watched):
    """Brings as many bytes as it says, but those from the beginning of the part; once for each part."""

    seen: tuple[Any, ...] = ()

    def push_ahead(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, ranges: Ranges
    ) -> bool:
        part = (header.attempt, header.shard)
        if part in self.seen:
            return False
        self.seen += (part,)
        return super().push_ahead(address, header, payload, (range(sum(map(len, ranges))),))


@pytest.mark.parametrize("kind", [Lies, Alters, Fails, Misplaces])
def test_whatever_becomes_of_what_left_early_the_part_counts_once_and_as_it_is(
    kind: type[Watched],
) -> None:
    with running_fold(2) as fold:
        transport = kind(fold.address)
        results = train(transport, small_job(), overlap=True)
        assert all(result.counted for result in results)
        assert digest_of(fold.address, "small") == golden("bf16")
        actors = [shard.process.actor("small") for shard in fold.shards]
        assert [len(actor._ahead) for actor in actors] == [0, 0]


def test_slot_given_back_after_its_backward_leaves_nothing_behind() -> None:
    model, (x, y) = SmallNet(), small_data()
    with running_fold(2) as fold:
        given = sheepfold.attach(model, address=fold.address, config=small_job(), threads=1, overlap=True)
        with given as run:
            slot = run.next_slot()
            assert slot is not None
            indices = torch.from_numpy(slot.indices)
            slot.backward(slot_loss(model, x[indices], y[indices]))
            run.give_back("for the test")
            train(fold.address, small_job(), overlap=True)
        assert digest_of(fold.address, "small") == golden("bf16")
        assert [len(shard.process.actor("small")._ahead) for shard in fold.shards] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"batch": {"samples": 32, "slot_samples": 4, "delay": 1}}, "batch.delay"),
        ({"loss_scale": {"initial": 8.0}}, "loss scale"),
    ],
)
def test_jobs_for_which_it_can_do_nothing_say_so(
    changes: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running_fold(1) as fold, caplog.at_level(logging.WARNING, "sheepfold"):
        transport = Watched(fold.address)
        train(transport, small_job(**changes), overlap=True)
        assert transport.ahead_bytes == 0
    said = [r.getMessage() for r in caplog.records if "overlap=True has no effect" in r.getMessage()]
    assert len(said) == 1
    assert why in said[0]
