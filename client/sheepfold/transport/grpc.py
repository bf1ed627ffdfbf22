"""The transport over gRPC: synchronous channels, a deadline on every call, payloads as raw bytes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import grpc
import grpc.experimental

import sheepfold_wire.messages as m
from sheepfold.transport import REPLIES, CoordinatorRequest, TransportError
from sheepfold_wire.access import Access, Metadata
from sheepfold_wire.codecs import Buffer
from sheepfold_wire.connection import Connection
from sheepfold_wire.convert import from_proto, to_proto
from sheepfold_wire.errors import BadFrame, PreconditionError
from sheepfold_wire.frames import (
    MESSAGE_BYTES_MAX,
    Chunk,
    PartBuffer,
    chunk_frames,
    push_header_frame,
    read_pull_frame,
)
from sheepfold_wire.pooling import BufferPool
from sheepfold_wire.status import DETAILS_KEY, from_details
from sheepfold_wire.v1 import shard_pb2
from sheepfold_wire.v1.coordinator_pb2_grpc import CoordinatorServiceStub
from sheepfold_wire.v1.monitor_pb2_grpc import MonitorServiceStub
from sheepfold_wire.v1.shard_pb2_grpc import ShardServiceStub

UNARY_SECONDS = 10.0
LEAVING_SECONDS = 1.0
"""A script that ends does not wait for a server that is away: its leases expire by themselves."""
DIGEST_SECONDS = 120.0
BULK_SECONDS = 60.0
BULK_BYTES_PER_SECOND = 1e6
PULL_SECONDS_UNKNOWN = 600.0
"""For the first pull from an address, before a header has told how long the part is."""

_METHODS: dict[type, tuple[Callable[[grpc.Channel], Any], str]] = {
    m.CreateJobRequest: (CoordinatorServiceStub, "CreateJob"),
    m.AttachRequest: (CoordinatorServiceStub, "Attach"),
    m.LeaseRequest: (CoordinatorServiceStub, "TakeLease"),
    m.HeartbeatRequest: (CoordinatorServiceStub, "Heartbeat"),
    m.ReleaseRequest: (CoordinatorServiceStub, "Release"),
    m.ConfigChangeRequest: (CoordinatorServiceStub, "ChangeConfig"),
    m.ControlRequest: (CoordinatorServiceStub, "Control"),
    m.ChoreRequest: (CoordinatorServiceStub, "TakeChore"),
    m.EvaluationRequest: (CoordinatorServiceStub, "Evaluated"),
    m.PinRequest: (CoordinatorServiceStub, "Pin"),
    m.StatusRequest: (MonitorServiceStub, "Status"),
    m.ListJobsRequest: (MonitorServiceStub, "ListJobs"),
}


def channel_options(environ: Mapping[str, str] = os.environ) -> list[tuple[str, int]]:
    """A cluster's web proxy in the environment is ignored unless SHEEPFOLD_USE_PROXY=1: it breaks gRPC."""
    return [
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.enable_http_proxy", int(environ.get("SHEEPFOLD_USE_PROXY") == "1")),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
        # A restarted server is found again within seconds; gRPC's own backoff grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.use_local_subchannel_pool", 1),
        (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),  # a pull needs no thread of grpc's
    ]


class GrpcTransport:
    """Calls to one coordinator and to the shards it names; one channel for each address, kept."""

    def __init__(self, where: Connection | str, environ: Mapping[str, str] = os.environ) -> None:
        """`where`: as in $SHEEPFOLD."""
        self._access = Access(where)
        self._coordinator = self._access.target
        self._options = channel_options(environ)
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}
        self._pull_bytes: dict[str, int] = {}
        self._parts = BufferPool(sys.maxsize)
        """What pulls are received into; as large as the model is here."""

    def call(self, request: CoordinatorRequest) -> Any:
        stub, name = _METHODS[type(request)]
        seconds = UNARY_SECONDS + getattr(request, "wait_seconds", 0.0)
        if isinstance(request, m.ReleaseRequest) and request.is_leaving:
            seconds = LEAVING_SECONDS
        method = getattr(stub(self._channel(self._coordinator)), name)
        try:
            reply = method(to_proto(request), timeout=seconds, metadata=self._metadata())
        except grpc.RpcError as error:
            raise translated(error, f"{name} at {self._coordinator}") from None
        return from_proto(REPLIES[type(request)], reply)

    def push(self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer) -> m.PushReply:
        method: Any = self._channel(address.address).stream_unary(
            "/sheepfold.v1.ShardService/Push", None, shard_pb2.PushReply.FromString
        )
        frames: Iterator[bytes] = chain((push_header_frame(header),), chunk_frames(payload))
        try:  # gRPC asks for no further frame once the shard has answered
            reply = method(frames, timeout=bulk_seconds(len(payload)), metadata=self._metadata())
        except grpc.RpcError as error:
            raise translated(error, f"Push to shard {address.shard} at {address.address}") from None
        return from_proto(m.PushReply, reply)

    def pull(self, address: m.ShardAddress, request: m.PullRequest) -> tuple[int, Buffer]:
        method: Any = self._channel(address.address).unary_stream(
            "/sheepfold.v1.ShardService/Pull", shard_pb2.PullRequest.SerializeToString, None
        )
        known = self._pull_bytes.get(address.address)
        seconds = PULL_SECONDS_UNKNOWN if known is None else bulk_seconds(known)
        timeout = seconds + request.wait_seconds
        frames = method(to_proto(request), timeout=timeout, metadata=self._metadata())
        try:
            header = _header(next(frames, b""))
            self._pull_bytes[address.address] = header.payload_bytes
            return header.version, _payload(header, frames, self._parts)
        except grpc.RpcError as error:
            raise translated(error, f"Pull from shard {address.shard} at {address.address}") from None
        finally:
            frames.cancel()

    def digest(self, address: m.ShardAddress, job: str) -> m.DigestReply:
        stub: Any = ShardServiceStub(self._channel(address.address))
        try:
            request = to_proto(m.DigestRequest(job))
            reply = stub.Digest(request, timeout=DIGEST_SECONDS, metadata=self._metadata())
        except grpc.RpcError as error:
            raise translated(error, f"Digest of shard {address.shard} at {address.address}") from None
        return from_proto(m.DigestReply, reply)

    def close(self) -> None:
        with self._lock:
            channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.close()

    def _metadata(self) -> Metadata:
        try:
            return self._access.metadata()
        except OSError as error:
            raise TransportError(f"credential for {self._coordinator}: {error.strerror or error}") from None

    def _channel(self, target: str) -> grpc.Channel:
        with self._lock:
            known = self._channels.get(target)
        if known is not None:
            return known
        try:  # outside the lock: with TLS, the first look at the certificates takes an answer
            opened = self._access.channel(target, self._options)
        except OSError as error:
            why = error.strerror or str(error)
            raise TransportError(f"TLS with {self._coordinator}: {why}") from None
        with self._lock:
            return self._channels.setdefault(target, opened)


def bulk_seconds(payload_bytes: int) -> float:
    """Deadline of a push or pull: generous, but no call waits for ever."""
    return BULK_SECONDS + payload_bytes / BULK_BYTES_PER_SECOND


def _header(frame: bytes) -> m.PullHeader:
    header = read_pull_frame(frame)
    if not isinstance(header, m.PullHeader):
        raise BadFrame("the first frame of a pull must be its header")
    return header


def _payload(header: m.PullHeader, frames: Iterator[bytes], pool: BufferPool) -> bytearray:
    """The rest of a pull: its chunks, then the version once more, so that a torn answer is seen."""
    buffer = PartBuffer(header.payload_bytes, pool)
    end: int | None = None
    for raw in frames:
        match read_pull_frame(raw):
            case Chunk() as chunk if end is None:
                buffer.add(chunk)
            case int(version) if end is None:
                end = version
            case _:
                raise BadFrame("a frame of a pull follows its end, or is a second header")
    if end != header.version:
        raise BadFrame(f"the pull began as version {header.version} and ended as {end}; pull again")
    return buffer.finish()


def translated(error: grpc.RpcError, what: str) -> Exception:
    """A role's own answer if there is one in the trailing metadata; otherwise the network's failure."""
    call: Any = error
    details = next((value for key, value in call.trailing_metadata() or () if key == DETAILS_KEY), None)
    answer = None if details is None else from_details(details)
    if answer is not None:
        return answer
    if call.code() is grpc.StatusCode.UNIMPLEMENTED:
        return PreconditionError(
            f"{what}: the server there does not know this call ({call.details()}); "
            "does this address belong to sheepfold, and to this version of it?"
        )
    return TransportError(f"{what}: {call.code().name}, {call.details()}")
