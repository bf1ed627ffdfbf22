"""Bytes that no client of ours would send: answers are ours, and training goes on to the same bits."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.integration.harness import RunningFold, digest_of, running_fold, small_job, train
from tests.integration.test_permissions import METHODS
from tests.security.decoders import attack, decoders, push_header
from tests.security.mutate import mutated, streams

from sheepfold_wire.errors import BadConfig
from sheepfold_wire.frames import chunk_frame, push_header_frame
from sheepfold_wire.job import job_from_json
from sheepfold_wire.status import DETAILS_KEY, from_details

pytestmark = pytest.mark.slow

SEED = 20_261
INPUTS_OF_A_DECODER = 250
INPUTS_OF_A_CALL = 12
PUSHES = 300
CALL_SECONDS = 1.0
NEITHER = b"\xff\xff\xff"
"""Bytes that are no protobuf message of any type."""


@pytest.fixture(scope="module")
def fold() -> Iterator[RunningFold]:
    with running_fold(2) as running:
        train(running.address, small_job())
        yield running


def answer(fold: RunningFold, method: str, messages: list[bytes]) -> Any:
    """None for a reply, the error of a call that ended with one."""
    target = fold.shards[1].address if "ShardService" in method else fold.address
    with grpc.insecure_channel(target) as channel:
        call = channel.stream_stream(method, None, None)(iter(messages), timeout=CALL_SECONDS)
        try:
            next(call, None)
            call.cancel()
        except grpc.RpcError as error:
            return error
    return None


def is_ours(error: Any) -> bool:
    """Of one of our errors, or of the end of the time that the caller gave."""
    found = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    if found is not None:
        return from_details(found) is not None and error.code() is not grpc.StatusCode.INTERNAL
    return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def faults(fold: RunningFold, method: str, messages: list[bytes]) -> list[str]:
    error = answer(fold, method, messages)
    return (
        [] if error is None or is_ours(error) else [f"{method} {error.code()} {error.details()} {messages}"]
    )


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info]


def test_decoders_refuse_what_they_cannot_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    print("seed", SEED)
    caplog.set_level(logging.ERROR)
    for decoder in decoders(tmp_path):
        for valid in decoder.corpus:
            decoder.read(valid)
        assert attack(decoder, SEED, INPUTS_OF_A_DECODER) == [], decoder.name


@pytest.mark.parametrize("method", METHODS)
def test_call_with_a_message_that_is_none_is_refused_in_our_words(
    fold: RunningFold, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = answer(fold, method, [NEITHER])
    assert error is not None
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert is_ours(error)
    assert tracebacks(caplog) == []


def test_odd_messages_and_pushes_get_answers_of_ours_and_change_no_bit(
    fold: RunningFold, caplog: pytest.LogCaptureFixture
) -> None:
    print("seed", SEED)
    draw, found = random.Random(SEED), []
    unary = [
        method for method in METHODS if "Health" not in method and not method.endswith(("Watch", "/Link"))
    ]
    for method in unary:
        for _ in range(INPUTS_OF_A_CALL):
            found += faults(fold, method, [mutated(draw, b"\x0a\x05other\x12\x04work\x18\x01\x22\x02ab")])
    push = [push_header_frame(push_header()), chunk_frame(0, b"abc")]
    for _ in range(PUSHES):
        found += faults(fold, "/sheepfold.v1.ShardService/Push", streams(draw, push))
    assert found == []
    assert tracebacks(caplog) == []
    train(fold.address, small_job("after"))
    assert digest_of(fold.address, "after") == digest_of(fold.address, "small")


@pytest.mark.parametrize("text", ["[" * 20_000, '{"a":' * 20_000])
def test_job_that_is_nested_too_deep_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match="recursion"):
        job_from_json(text)


def test_details_of_a_status_that_cannot_be_read_are_of_nobody() -> None:
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status(message="x")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="R"))
    status.details[0].value = NEITHER
    assert from_details(status.SerializeToString()) is None
