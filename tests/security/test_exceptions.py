"""An exception anywhere in a handler: its caller is told a number and nothing else, the log has all of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from tests.integration.harness import RunningFold, running_fold, small_job, train
from tests.security.calls import TELLTALE, answer, told
from tests.security.decoders import push_header

import sheepfold_wire.messages as m
from sheepfold_server.shell import coordinator_service
from sheepfold_server.shell.fleet import Fleet
from sheepfold_server.shell.gate import Gate
from sheepfold_server.shell.shard_service import ShardService
from sheepfold_server.shell.transfers import Served
from sheepfold_wire.convert import reports_to_proto, to_proto
from sheepfold_wire.frames import push_header_frame

pytestmark = pytest.mark.slow

TEXT = 'File "/opt/app/secret.py", line 7, in f: KeyError(<object at 0x7f0011223344>)'
SHARD, MONITOR = "/sheepfold.v1.ShardService/", "/sheepfold.v1.MonitorService/"
CALL_SECONDS = 20.0
INCIDENT = re.compile(r"incident ([0-9a-f]{12}): see the log of the server that was called")


def failing(*given: Any, **named: Any) -> Any:
    raise RuntimeError(TEXT)


@dataclass(frozen=True)
class Injection:
    """Where an exception is raised, and the call that comes there."""

    owner: Any
    name: str
    method: str
    request: bytes = b""
    value: Any = failing
    replies: int = 0
    """That come before it."""


HELLO = reports_to_proto([m.Hello(0, 0, 1, "127.0.0.1:1", "numeric", 1 << 20)]).SerializeToString()
WATCH = to_proto(m.WatchRequest("small", 1)).SerializeToString()
SERVED_TO_NOBODY = lambda *given: (None, Served(1, b"abc"))  # noqa: E731
INJECTIONS = {
    "sync unary": Injection(ShardService, "_actor", SHARD + "Digest"),
    "sync push": Injection(ShardService, "_push", SHARD + "Push", push_header_frame(push_header())),
    "sync pull": Injection(ShardService, "_pull", SHARD + "Pull"),
    "sync pull that has begun": Injection(
        ShardService, "_pull", SHARD + "Pull", value=SERVED_TO_NOBODY, replies=3
    ),
    "aio unary": Injection(Fleet, "jobs", MONITOR + "ListJobs"),
    "aio stream": Injection(Fleet, "job", MONITOR + "Watch", WATCH),
    "aio stream that has begun": Injection(coordinator_service, "to_proto", MONITOR + "Watch", WATCH),
    "aio stream both ways": Injection(Fleet, "link_up", "/sheepfold.v1.CoordinatorService/Link", HELLO),
    "gate, sync": Injection(Gate, "entry", SHARD + "Digest"),
    "gate, aio": Injection(Gate, "entry", MONITOR + "ListJobs"),
}


@pytest.fixture(scope="module")
def fold() -> Iterator[RunningFold]:
    with running_fold(1) as running:
        train(running.address, small_job())
        yield running


@pytest.mark.parametrize("kind", INJECTIONS)
def test_caller_is_told_a_number_and_nothing_of_what_went_wrong(
    fold: RunningFold, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    injection = INJECTIONS[kind]
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(injection.owner, injection.name, injection.value)
    target = fold.shards[0].address if injection.method.startswith(SHARD) else fold.address
    with grpc.insecure_channel(target) as channel:
        call: Any = channel.stream_stream(injection.method, None, None)
        replies = call(iter([injection.request]), timeout=CALL_SECONDS)
        for _ in range(injection.replies):
            next(replies)
        with pytest.raises(grpc.RpcError) as raised:
            next(replies)
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.INTERNAL
    found = INCIDENT.fullmatch(error.details())
    assert found is not None, error.details()
    assert TELLTALE.search(told(error)) is None
    (record,) = [record for record in caplog.records if record.exc_info]
    assert found[1] in record.getMessage()


@pytest.mark.parametrize("text", [TEXT, "'NoneType' object has no attribute 'x'", "Exception iterating x"])
def test_text_of_python_is_known_as_such(text: str) -> None:
    assert TELLTALE.search(text) is not None


def test_reply_is_no_error(fold: RunningFold) -> None:
    with grpc.insecure_channel(fold.address) as channel:
        assert answer(channel, MONITOR + "ListJobs", [b""], "", CALL_SECONDS) is None
