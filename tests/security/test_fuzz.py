"""Bytes that no client of ours would send: answers are ours, and training goes on to the same bits."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.faults.raw import RawWorker
from tests.integration.harness import RunningFold, digest_of, running_fold, small_job, train
from tests.integration.test_permissions import METHODS
from tests.security.bodies import train_through
from tests.security.calls import CALL_SECONDS, CallAttack, answer, is_ours
from tests.security.decoders import attack, decoders, push_header
from tests.security.mutate import mutated, streams

from sheepfold_server.shell.certificates import make_security
from sheepfold_server.shell.security import read_signer
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.frames import chunk_frame, push_header_frame
from sheepfold_wire.job import job_from_json
from sheepfold_wire.status import from_details

pytestmark = pytest.mark.slow

SEED = 20_261
INPUTS_OF_A_DECODER = 250
INPUTS_OF_A_CALL = 12
PUSHES = 300
CALLS = 1_500
"""With credentials of every kind."""
NEITHER = b"\xff\xff\xff"
"""Bytes that are no protobuf message of any type."""


@pytest.fixture(scope="module")
def fold() -> Iterator[RunningFold]:
    with running_fold(2) as running:
        train(running.address, small_job())
        yield running


def asked(fold: RunningFold, method: str, messages: list[bytes]) -> Any:
    """None for a reply, the error of a call that ended with one."""
    target = fold.shards[1].address if "ShardService" in method else fold.address
    with grpc.insecure_channel(target) as channel:
        return answer(channel, method, messages, "", CALL_SECONDS)


def faults(fold: RunningFold, method: str, messages: list[bytes]) -> list[str]:
    error = asked(fold, method, messages)
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
    error = asked(fold, method, [NEITHER])
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


def test_calls_with_any_credential_are_answered_in_our_words_and_go_on_with_the_right_one_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    print("seed", SEED)
    make_security(tmp_path / "tls", ["127.0.0.1"])
    with running_fold(1, tls=tmp_path / "tls") as fold:
        address = fold.connection.secret
        train(address, small_job())
        train(address, small_job("between"), until_step=2)
        signer = read_signer(tmp_path / "tls" / "token.key")
        tally = CallAttack(fold.connection, fold.shards[0].address, signer).run(f"{SEED}", CALLS)
        assert (tally.crashes, tally.told, tally.wrongly_allowed) == ([], [], [])
        assert tally.outcomes["OK"] > 0
        assert tally.outcomes["PERMISSION_DENIED"] > 0
        assert tally.outcomes["UNAUTHENTICATED"] > 0
        assert tracebacks(caplog) == []
        train(address, small_job("between"))
        assert digest_of(address, "between") == digest_of(address, "small")


def test_bodies_that_do_not_fit_their_header_are_refused_and_change_no_bit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = small_job("bodies", batch={"samples": 4, "slot_samples": 4}, stop={"steps": 3})
    digests = []
    for rounds in (0, 1):
        with running_fold(2) as fold, closing(RawWorker(fold.address, job)) as worker:
            found = train_through(worker, f"{SEED}", rounds)
            assert (found.taken, found.crashes) == ([], [])
            digests.append(digest_of(fold.address, job.name))
    assert found.inputs > 0
    assert digests[0] == digests[1]
    assert tracebacks(caplog) == []


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
