"""sheepfold.pushes: in a job with delay a push goes on beside the next slot, over a fake server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.fake_server import FakeServer, FakeTransport, job_of
from tests.unit.test_run import linear, loss_of

import sheepfold_wire.messages as m
from sheepfold.attaching import attach
from sheepfold.errors import Refused
from sheepfold.joining import Joining
from sheepfold.model_tensors import tensors_of
from sheepfold.run import Run
from sheepfold.transport import Ranges
from sheepfold_wire.codecs import Buffer
from sheepfold_wire.errors import NonFinite, ShapeMismatch

DEADLINE_SECONDS = 20.0
DELAYED = {"samples": 8, "slot_samples": 4, "delay": 1}


class Gated(FakeTransport):
    """Pushes of slots wait at a gate; what is sent is read before and after."""

    def __init__(self, server: FakeServer) -> None:
        super().__init__(server)
        self.arrived, self.gate = threading.Event(), threading.Event()
        self.is_overwritten = False

    def push(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, brought: Ranges = ()
    ) -> m.PushReply:
        if header.facts.samples:
            before = bytes(payload)
            self.arrived.set()
            assert self.gate.wait(DEADLINE_SECONDS)
            self.is_overwritten |= bytes(payload) != before
        return super().push(address, header, payload)


@pytest.fixture
def gated() -> Iterator[Gated]:
    transport = Gated(FakeServer(job_of(batch=DELAYED)))
    yield transport
    transport.gate.set()


def computed(run: Run, model: Any) -> None:
    slot = run.next_slot()
    assert slot is not None
    slot.backward(loss_of(model, slot.indices))


def test_next_slot_is_computed_while_the_last_one_is_pushed(gated: Gated) -> None:
    model = linear()
    with attach(model, "toy", address=gated) as run:
        computed(run, model)
        result = run.step()
        assert gated.arrived.wait(DEADLINE_SECONDS)
        computed(run, model)
        assert not gated.server.pushed[1:]  # only the initial weights are there
        gated.gate.set()
        assert result.counted
        assert run.step().counted


def test_second_contribution_is_packed_when_the_first_has_been_sent(gated: Gated) -> None:
    """They share a buffer."""
    model, is_stepped = linear(), threading.Event()
    with attach(model, "toy", address=gated) as run:
        computed(run, model)
        run.step()
        computed(run, model)

        def step() -> None:
            run.step()
            is_stepped.set()

        thread = threading.Thread(target=step)
        thread.start()
        assert gated.arrived.wait(DEADLINE_SECONDS)
        assert not is_stepped.wait(0.2)
        gated.gate.set()
        thread.join(DEADLINE_SECONDS)
        assert is_stepped.is_set()
    assert not gated.is_overwritten
    assert len(gated.server.pushed) == 3


def test_script_that_leaves_lets_its_last_push_end(gated: Gated) -> None:
    model = linear()
    with attach(model, "toy", address=gated) as run:
        computed(run, model)
        run.step()
        assert gated.arrived.wait(DEADLINE_SECONDS)
        opener = threading.Timer(0.05, gated.gate.set)
        opener.start()
    opener.join()
    (told,) = [call for call in gated.server.named("ReleaseRequest") if call.staged and call.is_leaving][-1:]
    assert gated.server.pushed[1].lease.attempt in told.staged


def test_bits_are_those_of_pushes_at_once() -> None:
    made = []
    for batch in (DELAYED, {"samples": 8, "slot_samples": 4}):
        server, model = FakeServer(job_of(batch=batch)), linear()
        with attach(model, "toy", address=server.connect()) as run:
            for slot in run.slots():
                slot.backward(loss_of(model, slot.indices))
                run.step()
        made.append([server.digest(shard) for shard in range(2)])
    assert made[0] == made[1]


def test_gradient_that_is_refused_does_not_count_and_the_loop_goes_on() -> None:
    server, model = FakeServer(job_of(batch=DELAYED)), linear()
    with attach(model, "toy", address=server.connect()) as run:
        assert run.next_slot() is not None
        server.failures["push"].append(NonFinite("1 elements of tensor weight are NaN or infinite"))
        assert run.slot is not None
        run.slot.backward(loss_of(model, run.slot.indices))
        result = run.step()
        assert not result.counted
        assert "NaN" in result.why
        assert run.next_slot() is not None


def test_push_that_is_never_taken_is_raised_where_the_script_asks_next_and_handed_back() -> None:
    server, model = FakeServer(job_of(batch=DELAYED)), linear()
    with attach(model, "toy", address=server.connect()) as run:
        computed(run, model)
        attempt = run.slot.lease.attempt if run.slot is not None else None
        server.failures["push"].extend([ShapeMismatch("weight -1 of this slot")] * 2)
        result = run.step()
        with pytest.raises(Refused, match="weight -1"):
            _ = result.counted
        with pytest.raises(Refused, match="weight -1"):
            run.next_slot()
        assert any(attempt in call.attempts for call in server.named("ReleaseRequest"))
        assert run.next_slot() is not None  # raised once


def test_second_session_comes_from_the_same_network() -> None:
    """Workers outside the cluster's network are sent to other addresses of the shards."""
    server, model = FakeServer(job_of(batch=DELAYED)), linear()
    joining = Joining("toy", server.connect(), network="external")
    with Run.of(tensors_of(model), joining) as run:
        computed(run, model)
        assert run.step().counted
    assert [call.network for call in server.named("AttachRequest")] == ["external", "external"]
