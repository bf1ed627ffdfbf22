"""How a session's messages reach the shards: gRPC, shared memory, or within the process."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Protocol

import sheepfold_wire.messages as m
from sheepfold.address import Address
from sheepfold_wire.codecs import Buffer

ENTRY_POINTS = "sheepfold.transports"

CoordinatorRequest = (
    m.CreateJobRequest
    | m.AttachRequest
    | m.LeaseRequest
    | m.HeartbeatRequest
    | m.ReleaseRequest
    | m.ConfigChangeRequest
    | m.ControlRequest
    | m.ChoreRequest
    | m.EvaluationRequest
    | m.PinRequest
    | m.StatusRequest
    | m.ListJobsRequest
)

Ranges = tuple[range, ...]
"""Of the bytes of one part."""

Brought = tuple[Ranges, ...]
"""What of a contribution's parts their shards hold already, in shard order; () for nothing."""

REPLIES: dict[type, type] = {
    m.CreateJobRequest: m.CreateJobReply,
    m.AttachRequest: m.AttachReply,
    m.LeaseRequest: m.LeaseReply,
    m.HeartbeatRequest: m.HeartbeatReply,
    m.ReleaseRequest: m.ReleaseReply,
    m.ConfigChangeRequest: m.ConfigChangeReply,
    m.ControlRequest: m.ControlReply,
    m.ChoreRequest: m.ChoreReply,
    m.EvaluationRequest: m.EvaluationReply,
    m.PinRequest: m.PinReply,
    m.StatusRequest: m.JobStatus,
    m.ListJobsRequest: m.ListJobsReply,
}


class TransportError(Exception):
    """The network failed. Whether the request was carried out is unknown: it may be made again, unchanged."""


class Transport(Protocol):
    """Blocking calls, each with a deadline of its own; any thread may make them at any time.

    A refusal by a role is raised as its SheepfoldError, everything else as TransportError.
    """

    def call(self, request: CoordinatorRequest) -> Any:
        """The coordinator's reply, of the class that REPLIES names."""

    def push(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, brought: Ranges = ()
    ) -> m.PushReply:
        """Returns once the shard has staged the part. `brought`: what `push_ahead` has brought of it."""

    def push_ahead(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, ranges: Ranges
    ) -> bool:
        """Some bytes of a part, before the rest is known; False where nothing would be gained by it."""

    def room(self, address: m.ShardAddress, size: int) -> memoryview | None:
        """Memory of `size` bytes from where a push needs no copy; None: any memory will do.

        The same as long as it can be had, and of whoever asks last.
        """

    def pull(self, address: m.ShardAddress, request: m.PullRequest) -> tuple[int, Buffer]:
        """(version, payload)."""

    def digest(self, address: m.ShardAddress, job: str) -> m.DigestReply:
        """Digests of the shard's state, piece by piece."""

    def way(self, address: m.ShardAddress) -> str:
        """How payloads of that shard go at present: grpc, shared memory, or this process. For people."""

    def close(self) -> None:
        """Ends every call under way."""


class Borrowed:
    """A transport for a second user, who does not close it."""

    def __init__(self, transport: Transport) -> None:
        self.call, self.push, self.push_ahead = transport.call, transport.push, transport.push_ahead
        self.room = transport.room
        self.pull, self.digest, self.way = transport.pull, transport.digest, transport.way

    def close(self) -> None:
        """The owner's own."""


class TransportMissing(Exception):
    """The transport that an address asks for is not installed."""


def connect(address: Address) -> Transport:
    """The transport for an address; opens no connection yet. Raises TransportMissing."""
    if address.connection is not None:
        from sheepfold.transport.grpc import GrpcTransport

        return GrpcTransport(address.connection)
    return _from_entry_point(address)


def _from_entry_point(address: Address) -> Transport:
    """An entry point is a callable that takes the address; the server package brings `local`."""
    remedy = "it runs the server in this process: pip install 'sheepfold[server]'"
    found = list(entry_points(group=ENTRY_POINTS, name=address.scheme))
    if not found:
        raise TransportMissing(f"address {address}: no transport {address.scheme!r} is installed; {remedy}")
    try:
        factory = found[0].load()
    except ImportError as error:
        text = f"address {address}: {found[0].value} cannot be loaded ({error}); {remedy}"
        raise TransportMissing(text) from error
    transport: Transport = factory(address)
    return transport
