"""Calls to a shard that measure the way to it: small, larger than a packet, and some seconds of bulk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

import sheepfold_wire.messages as m
from sheepfold.calls import Terms
from sheepfold.transport.grpc import channel_options, translated
from sheepfold_wire.access import Access
from sheepfold_wire.convert import to_proto
from sheepfold_wire.errors import BadFrame, JobUnknown
from sheepfold_wire.frames import Chunk, read_pull_frame
from sheepfold_wire.v1 import shard_pb2

PADDING_BYTES = 9_000
"""More than the largest packet in use (jumbo frames), and within every bound of a message."""
CALL_SECONDS_MAX = 5.0
SAMPLE_SECONDS_MAX = 5.0
SAMPLE_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """The beginning of a pull. `seconds` run from its header to the last byte taken."""

    version: int
    received_bytes: int
    payload_bytes: int
    seconds: float

    @property
    def bytes_per_second(self) -> float:
        return self.received_bytes / max(self.seconds, 1e-9)


class ShardCalls:
    """One channel to a shard, with a worker's options. Raises what `translated` makes of failures."""

    def __init__(self, address: str, environ: Mapping[str, str], access: Access | None = None) -> None:
        """`access`: its coordinator's; None is plain text. Raises OSError, ServerUntrusted."""
        used = Access(address) if access is None else access
        self.address, self._metadata = address, used.metadata()
        self._channel = used.channel(address, channel_options(environ))
        self._pull: Any = self._channel.unary_stream(
            "/sheepfold.v1.ShardService/Pull", shard_pb2.PullRequest.SerializeToString, None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def ask(self, padding_bytes: int = 0) -> float:
        """Seconds until the shard answers that it has no job of an empty name."""
        request = m.PullRequest("", 0, 0, "x" * padding_bytes, "", "fp32", None, 0.0)
        began = time.perf_counter()
        try:
            next(self._pull(to_proto(request), timeout=CALL_SECONDS_MAX, metadata=self._metadata), None)
        except grpc.RpcError as error:
            answer = translated(error, f"the call to {self.address}")
            if not isinstance(answer, JobUnknown):
                raise answer from None
        return time.perf_counter() - began

    def sample(self, request: m.PullRequest) -> Sample:
        """Pull, and stop after some seconds or megabytes."""
        timeout = request.wait_seconds + 2 * SAMPLE_SECONDS_MAX
        frames = self._pull(to_proto(request), timeout=timeout, metadata=self._metadata)
        try:
            header = read_pull_frame(next(frames, b""))
            if not isinstance(header, m.PullHeader):
                raise BadFrame("the first frame of a pull must be its header")
            began, received = time.perf_counter(), 0
            for raw in frames:
                frame = read_pull_frame(raw)
                received += len(frame.data) if isinstance(frame, Chunk) else 0
                if received >= SAMPLE_BYTES_MAX or time.perf_counter() - began > SAMPLE_SECONDS_MAX:
                    break
            seconds = time.perf_counter() - began
        except grpc.RpcError as error:
            raise translated(error, f"the pull from {self.address}") from None
        finally:
            frames.cancel()
        return Sample(header.version, received, header.payload_bytes, seconds)


def pull_request(terms: Terms, shard: int) -> m.PullRequest:
    """For the newest weights, in fp32 as workers pull them."""
    return m.PullRequest(
        job=terms.reply.job,
        shard=shard,
        incarnation=terms.reply.shards[shard].incarnation,
        manifest_digest=terms.manifest.digest,
        plan_digest=terms.plan.digest,
        codec="fp32",
        version=None,
        wait_seconds=CALL_SECONDS_MAX,
        lineage=terms.reply.lineage,
    )
