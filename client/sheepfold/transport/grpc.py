"""The transport over gRPC: synchronous channels, a deadline on every call, payloads as raw bytes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import grpc
import grpc.experimental

import sheepfold_wire.messages as m
from sheepfold.transport import REPLIES, CoordinatorRequest, Ranges, TransportError
from sheepfold.transport.shared_memory import Region, SharedMemory
from sheepfold_wire.access import Access, Metadata
from sheepfold_wire.codecs import Buffer
from sheepfold_wire.connection import Connection
from sheepfold_wire.convert import from_proto, to_proto
from sheepfold_wire.errors import AheadGone, BadFrame, PreconditionError, RegionGone
from sheepfold_wire.frames import (
    MESSAGE_BYTES_MAX,
    Chunk,
    PartBuffer,
    Written,
    chunk_frames,
    push_header_frame,
    push_region_frame,
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
        self._pull_bytes: dict[tuple[str, str], int] = {}
        """How long a part is, by a shard's address and codec."""
        self._shared = SharedMemory(self._share, environ)
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

    def push(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, brought: Ranges = ()
    ) -> m.PushReply:
        if brought:
            with suppress(AheadGone, BadFrame):  # it holds none of it, or not just these
                rest = chunk_frames(payload, ranges=left_of(len(payload), brought))
                return self._push(address, replace(header, ahead_bytes=sum(map(len, brought))), rest)
        with suppress(RegionGone), self._shared.lent(address, len(payload), payload) as region:
            if region is not None:
                region.write(payload)
                return self._push(address, header, iter((push_region_frame(region.number),)))
        return self._push(address, header, chunk_frames(payload))

    def push_ahead(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, ranges: Ranges
    ) -> bool:
        if self._shared.is_used(address):
            return False
        return not self._push(address, header, chunk_frames(payload, ranges=ranges)).duplicate

    def _push(self, address: m.ShardAddress, header: m.PushHeader, body: Iterator[bytes]) -> m.PushReply:
        method: Any = self._channel(address.address).stream_unary(
            "/sheepfold.v1.ShardService/Push", None, shard_pb2.PushReply.FromString
        )
        frames, seconds = chain((push_header_frame(header),), body), bulk_seconds(header.payload_bytes)
        try:  # gRPC asks for no further frame once the shard has answered
            reply = method(frames, timeout=seconds, metadata=self._metadata())
        except grpc.RpcError as error:
            raise translated(error, f"Push to shard {address.shard} at {address.address}") from None
        return from_proto(m.PushReply, reply)

    def pull(self, address: m.ShardAddress, request: m.PullRequest) -> tuple[int, Buffer]:
        known = self._pull_bytes.get((address.address, request.codec))
        with suppress(RegionGone), self._shared.lent(address, known or 0) as region:
            if region is not None:
                return self._pull(address, replace(request, region=region.number), region)
        return self._pull(address, request, None)

    def _pull(
        self, address: m.ShardAddress, request: m.PullRequest, region: Region | None
    ) -> tuple[int, Buffer]:
        method: Any = self._channel(address.address).unary_stream(
            "/sheepfold.v1.ShardService/Pull", shard_pb2.PullRequest.SerializeToString, None
        )
        known = self._pull_bytes.get((address.address, request.codec))
        seconds = PULL_SECONDS_UNKNOWN if known is None else bulk_seconds(known)
        timeout = seconds + request.wait_seconds
        frames = method(to_proto(request), timeout=timeout, metadata=self._metadata())
        try:
            header = _header(next(frames, b""))
            self._pull_bytes[address.address, request.codec] = header.payload_bytes
            return header.version, _payload(header, frames, self._parts, region)
        except grpc.RpcError as error:
            raise translated(error, f"Pull from shard {address.shard} at {address.address}") from None
        finally:
            frames.cancel()

    def _share(self, address: m.ShardAddress) -> m.ShareReply:
        stub: Any = ShardServiceStub(self._channel(address.address))
        try:
            request = to_proto(m.ShareRequest())
            reply = stub.Share(request, timeout=UNARY_SECONDS, metadata=self._metadata())
        except grpc.RpcError as error:
            raise translated(error, f"Share at shard {address.shard} at {address.address}") from None
        return from_proto(m.ShareReply, reply)

    def digest(self, address: m.ShardAddress, job: str) -> m.DigestReply:
        stub: Any = ShardServiceStub(self._channel(address.address))
        try:
            request = to_proto(m.DigestRequest(job))
            reply = stub.Digest(request, timeout=DIGEST_SECONDS, metadata=self._metadata())
        except grpc.RpcError as error:
            raise translated(error, f"Digest of shard {address.shard} at {address.address}") from None
        return from_proto(m.DigestReply, reply)

    def room(self, address: m.ShardAddress, size: int) -> memoryview | None:
        return self._shared.room(address, size)

    def way(self, address: m.ShardAddress) -> str:
        return "shared memory" if self._shared.is_used(address) else "grpc"

    def close(self) -> None:
        self._shared.close()
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


def left_of(size: int, brought: Ranges) -> Ranges:
    """The bytes of a part of `size` that are in none of these ranges, which do not overlap."""
    pieces = sorted(brought, key=lambda piece: piece.start)
    starts, ends = [0, *(piece.stop for piece in pieces)], [*(piece.start for piece in pieces), size]
    return tuple(range(start, end) for start, end in zip(starts, ends, strict=True) if start < end)


def _header(frame: bytes) -> m.PullHeader:
    header = read_pull_frame(frame)
    if not isinstance(header, m.PullHeader):
        raise BadFrame("the first frame of a pull must be its header")
    return header


def _payload(
    header: m.PullHeader, frames: Iterator[bytes], pool: BufferPool, region: Region | None
) -> Buffer:
    """The rest of a pull: its chunks, or what is in the region instead; then the version once more.

    Raises BadFrame, so that a torn answer is seen; RegionGone for chunks where a region was offered.
    """
    buffer = PartBuffer(header.payload_bytes if region is None else 0, pool)
    written: memoryview | None = None
    end: int | None = None
    for raw in frames:
        match read_pull_frame(raw):
            case Chunk() if region is not None:
                raise RegionGone("it does not write to the memory shared with it")
            case Chunk() as chunk if end is None:
                buffer.add(chunk)
            case Written(checksum) if end is None and written is None and region is not None:
                written = region.payload(header.payload_bytes, checksum)
            case int(version) if end is None:
                end = version
            case _:
                raise BadFrame("a frame of a pull follows its end, or is a second header")
    if end != header.version:
        raise BadFrame(f"the pull began as version {header.version} and ended as {end}; pull again")
    if region is None:
        return buffer.finish()
    if written is None:
        raise BadFrame("the pull ended without a payload; pull again")
    return written


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
