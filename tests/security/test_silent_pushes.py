"""Pushes whose sender goes silent: they are ended, and leave room for others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest
from tests.integration.harness import digest_of, running_fold, small_job, train

from sheepfold_server.shell import patience
from sheepfold_server.shell.shard_main import CALLS_MAX

pytestmark = pytest.mark.slow


def silent(asked: threading.Event) -> Iterator[bytes]:
    """Never says a word."""
    asked.wait(60.0)
    yield from ()


def test_crowd_that_pushes_nothing_is_sent_away_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the shard has threads: while they hold them nobody else is served."""
    monkeypatch.setattr(patience, "FRAME_SECONDS_MAX", 1.0)
    over = threading.Event()
    with running_fold(1) as fold, running_fold(1) as calm:
        shard = fold.shards[0]
        with grpc.insecure_channel(shard.address) as channel:
            push = channel.stream_unary("/sheepfold.v1.ShardService/Push", None, None)
            calls = [push.future(silent(over), timeout=3600.0) for _ in range(CALLS_MAX)]
            codes = {call.exception(30.0).code() for call in calls}
            over.set()
        assert codes <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert shard._patience.ended > 0
        train(fold.address, small_job())
        train(calm.address, small_job())
        assert digest_of(fold.address, "small") == digest_of(calm.address, "small")
