"""What is too large is refused by the library, before a handler of ours sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.integration.harness import RunningFold, running_fold

from sheepfold_wire.frames import MESSAGE_BYTES_MAX

pytestmark = pytest.mark.slow

PUSH, LIST = "/sheepfold.v1.ShardService/Push", "/sheepfold.v1.MonitorService/ListJobs"
METADATA_BYTES = 64 << 10
CALL_SECONDS = 20.0


@pytest.fixture(scope="module")
def fold() -> Iterator[RunningFold]:
    with running_fold(1) as running:
        yield running


def refusal(fold: RunningFold, method: str, message: bytes, **how: Any) -> tuple[grpc.StatusCode, str]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
    with grpc.insecure_channel(
        fold.shards[0].address if method == PUSH else fold.address, options
    ) as channel:
        call = channel.stream_unary(method, None, None)
        with pytest.raises(grpc.RpcError) as raised:
            call(iter([message]), timeout=CALL_SECONDS, **how)
    error: Any = raised.value
    return error.code(), error.details()


@pytest.mark.parametrize("method", [PUSH, LIST])
def test_message_above_the_limit_is_refused(fold: RunningFold, method: str) -> None:
    code, text = refusal(fold, method, bytes(MESSAGE_BYTES_MAX + 1))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MESSAGE_BYTES_MAX) in text


@pytest.mark.parametrize("method", [PUSH, LIST])
def test_compressed_message_is_refused_unread(fold: RunningFold, method: str) -> None:
    code, text = refusal(fold, method, bytes(64 << 20), compression=grpc.Compression.Gzip)
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "gzip" in text


@pytest.mark.parametrize("method", [PUSH, LIST])
def test_metadata_above_the_hard_limit_is_refused(fold: RunningFold, method: str) -> None:
    code, text = refusal(fold, method, b"", metadata=(("x-long", "y" * METADATA_BYTES),))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "hard limit" in text
