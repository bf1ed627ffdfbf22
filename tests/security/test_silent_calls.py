"""Calls whose sender goes silent, and calls that anybody may make: they leave room for others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tests.integration.harness import digest_of, running_fold, small_job, train, until
from tests.integration.test_permissions import CHECK, NOT_SERVED

from sheepfold_server.shell import patience
from sheepfold_server.shell.gate import OPEN_CALLS_MAX
from sheepfold_server.shell.shard_main import CALLS_MAX
from sheepfold_wire.errors import BadFrame, Overloaded
from sheepfold_wire.status import DETAILS_KEY, from_details

pytestmark = pytest.mark.slow

LONG_SECONDS = 3600.0


def silent(asked: threading.Event) -> Iterator[bytes]:
    """Never says a word."""
    asked.wait(60.0)
    yield from ()


def ends(address: str, method: str, count: int) -> list[Any]:
    """The errors of that many calls whose first message does not come."""
    over = threading.Event()
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_unary(method, None, None)
        calls = [call.future(silent(over), timeout=LONG_SECONDS) for _ in range(count)]
        found = [call.exception(30.0) for call in calls]
        over.set()
    return found


def told(error: Any) -> object:
    """What of ours came with it."""
    return from_details(dict(error.trailing_metadata())[DETAILS_KEY])


def test_crowd_that_pushes_nothing_is_sent_away_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the shard has threads: while they hold them nobody else is served."""
    monkeypatch.setattr(patience, "FRAME_SECONDS_MAX", 1.0)
    monkeypatch.setattr(patience, "MESSAGE_SECONDS_MAX", 1.0)
    with running_fold(1) as fold, running_fold(1) as calm:
        shard = fold.shards[0]
        for method in ("/sheepfold.v1.ShardService/Push", "/sheepfold.v1.ShardService/Pull"):
            before = shard._patience.ended
            codes = {error.code() for error in ends(shard.address, method, CALLS_MAX)}
            assert codes <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert shard._patience.ended > before, method
        train(fold.address, small_job())
        train(calm.address, small_job())
        assert digest_of(fold.address, "small") == digest_of(calm.address, "small")


@pytest.mark.parametrize("method", ["/sheepfold.v1.CoordinatorService/Attach", CHECK])
def test_call_of_the_coordinator_without_a_message_is_ended_in_our_words(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "MESSAGE_SECONDS_MAX", 0.2)
    with running_fold(1) as fold:
        (error,) = ends(fold.address, method, 1)
        assert isinstance(told(error), BadFrame)
        assert "no message came within 0.2 s" in error.details()


@pytest.mark.parametrize("role", ["coordinator", "shard"])
def test_crowd_that_asks_for_health_and_says_nothing_leaves_room_for_calls(role: str) -> None:
    """Nobody needs a credential for that; without a bound they would take all of a shard's places."""
    over = threading.Event()
    with running_fold(1) as fold:
        address = fold.address if role == "coordinator" else fold.shards[0].address
        with closing(grpc.insecure_channel(address)) as channel:
            check = channel.stream_unary(CHECK, None, None)
            crowd = [check.future(silent(over), timeout=LONG_SECONDS) for _ in range(CALLS_MAX)]
            until(lambda: len(ended(crowd)) >= CALLS_MAX - OPEN_CALLS_MAX, "those without a place")
            assert {type(told(call.exception())) for call in ended(crowd)} == {Overloaded}
            assert len(ended(crowd)) == CALLS_MAX - OPEN_CALLS_MAX
            train(fold.address, small_job())
            for call in crowd:
                call.cancel()
            over.set()
            asked = health_pb2.HealthCheckRequest().SerializeToString()
            until(lambda: check.future(iter([asked])).exception() is None, "places that are given back")


def ended(calls: list[Any]) -> list[Any]:
    return [call for call in calls if call.done()]


@pytest.mark.parametrize("method", NOT_SERVED)
def test_watching_health_is_not_served(method: str) -> None:
    """One who does not read what it is sent would keep the process from ending."""
    with running_fold(1) as fold:
        for address in (fold.address, fold.shards[0].address):
            with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
                next(channel.unary_stream(method, None, None)(b"", timeout=10.0))
            error: Any = refused.value
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
