"""sheepfold.transport.grpc, against a small server of the same frames on a free port of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

import sheepfold_wire.messages as m
from sheepfold.address import parse_address
from sheepfold.transport import REPLIES, TransportError, TransportMissing, connect
from sheepfold.transport.grpc import BULK_SECONDS, GrpcTransport, bulk_seconds, channel_options
from sheepfold_wire.convert import proto_class, to_proto
from sheepfold_wire.errors import (
    BadFrame,
    ChunkChecksumMismatch,
    PreconditionError,
    SheepfoldError,
    StaleIncarnation,
)
from sheepfold_wire.frames import (
    MESSAGE_BYTES_MAX,
    PartBuffer,
    chunk_frame,
    chunk_frames,
    payload_digest,
    pull_end_frame,
    pull_header_frame,
    read_push_frame,
)
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.pooling import BufferPool
from sheepfold_wire.status import DETAILS_KEY, to_details

PAYLOAD = bytes(range(256)) * 9000  # more than two chunks


@dataclass
class Shard:
    """What the server received, and what it shall answer."""

    header: Any = None
    payload: bytes = b""
    frames_taken: int = 0
    refusal: SheepfoldError | None = None
    pull_frames: list[bytes] = field(default_factory=list)
    seconds_left: float = 0.0
    lease_seconds_left: float = 0.0

    def _refuse(self, context: grpc.ServicerContext) -> None:
        if self.refusal is not None:
            context.set_trailing_metadata(((DETAILS_KEY, to_details(self.refusal)),))
            code = next(c for c in grpc.StatusCode if c.value[0] == int(self.refusal.status))
            context.abort(code, str(self.refusal))

    def push(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self.seconds_left = context.time_remaining()
        self.header = read_push_frame(next(frames))
        self._refuse(context)
        buffer = PartBuffer(self.header.payload_bytes, BufferPool(0))
        for frame in frames:
            self.frames_taken += 1
            chunk: Any = read_push_frame(frame)
            buffer.add(chunk)
        self.payload = bytes(buffer.finish())
        return bytes(to_proto(m.PushReply(True)).SerializeToString())

    def pull(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._refuse(context)
        self.seconds_left = context.time_remaining()
        self.header = proto_class(m.PullRequest).FromString(request)
        yield from self.pull_frames

    def lease(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._refuse(context)
        self.lease_seconds_left = context.time_remaining()
        return bytes(to_proto(m.LeaseReply("wait", 3, "every slot is leased")).SerializeToString())


@pytest.fixture
def shard() -> Shard:
    return Shard()


@pytest.fixture
def address(shard: Shard) -> Iterator[str]:
    server = grpc.server(
        ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    )
    methods: dict[str, dict[str, Any]] = {
        "sheepfold.v1.ShardService": {
            "Push": grpc.stream_unary_rpc_method_handler(shard.push),
            "Pull": grpc.unary_stream_rpc_method_handler(shard.pull),
        },
        "sheepfold.v1.CoordinatorService": {"TakeLease": grpc.unary_unary_rpc_method_handler(shard.lease)},
    }
    for service, handlers in methods.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def transport(address: str) -> Iterator[GrpcTransport]:
    made = GrpcTransport(address, {})
    yield made
    made.close()


def header() -> m.PushHeader:
    facts = m.Facts(4, 4.0, 7, b"\x01", 0.5)
    digest = payload_digest(PAYLOAD)
    return m.PushHeader("toy", AttemptId(1, 2), 0, 5, 1, "m", "p", "bf16", len(PAYLOAD), digest, facts)


def target(address: str) -> m.ShardAddress:
    return m.ShardAddress(0, address, 5)


def pull_request() -> m.PullRequest:
    return m.PullRequest("toy", 0, 5, "m", "p", "fp32", None, 2.0)


def test_a_push_arrives_whole_with_its_header(shard: Shard, transport: GrpcTransport, address: str) -> None:
    assert transport.push(target(address), header(), PAYLOAD) == m.PushReply(True)
    assert shard.header == header()
    assert shard.payload == PAYLOAD


def test_a_refused_push_is_the_roles_own_error_and_is_not_sent_to_its_end(
    shard: Shard, transport: GrpcTransport, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(payload: bytes) -> Iterator[bytes]:
        for frame in chunk_frames(payload):
            made.append(len(frame))
            yield frame

    monkeypatch.setattr("sheepfold.transport.grpc.chunk_frames", counted)
    shard.refusal = StaleIncarnation("shard 0 is at incarnation 6; attach again")
    with pytest.raises(StaleIncarnation, match="incarnation 6"):
        transport.push(target(address), header(), bytes(256 << 20))
    assert len(made) < 128


def test_a_pull_brings_the_payload_and_its_version(
    shard: Shard, transport: GrpcTransport, address: str
) -> None:
    first = pull_header_frame(m.PullHeader(7, len(PAYLOAD)))
    shard.pull_frames = [first, *chunk_frames(PAYLOAD), pull_end_frame(7)]
    assert transport.pull(target(address), pull_request()) == (7, bytearray(PAYLOAD))
    assert shard.header == to_proto(pull_request())


def test_an_empty_part_goes_both_ways(shard: Shard, transport: GrpcTransport, address: str) -> None:
    shard.pull_frames = [pull_header_frame(m.PullHeader(0, 0)), pull_end_frame(0)]
    assert transport.pull(target(address), pull_request()) == (0, bytearray())


HEADER = pull_header_frame(m.PullHeader(7, 8))
CHUNK = chunk_frame(0, b"12345678")


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "neither header"),
        ([CHUNK], "first frame of a pull must be its header"),
        ([HEADER, CHUNK], "began as version 7 and ended as None"),
        ([HEADER, CHUNK, pull_end_frame(8)], "began as version 7 and ended as 8"),
        ([HEADER, pull_end_frame(7)], "after 0 of 8 bytes"),
        ([HEADER, CHUNK, CHUNK, pull_end_frame(7)], "covers bytes 0 to 8"),
        ([HEADER, HEADER], "second header"),
        ([HEADER, CHUNK, pull_end_frame(7), CHUNK], "follows its end"),
        ([pull_header_frame(m.PullHeader(7, -1)), pull_end_frame(7)], "announces -1 bytes"),
    ],
)
def test_a_pull_that_is_torn_is_refused(
    shard: Shard, transport: GrpcTransport, address: str, frames: list[bytes], said: str
) -> None:
    shard.pull_frames = frames
    with pytest.raises(BadFrame, match=said):
        transport.pull(target(address), pull_request())


def test_an_altered_chunk_is_a_checksum_mismatch(
    shard: Shard, transport: GrpcTransport, address: str
) -> None:
    shard.pull_frames = [HEADER, CHUNK[:-1] + b"9", pull_end_frame(7)]
    with pytest.raises(ChunkChecksumMismatch):
        transport.pull(target(address), pull_request())


def test_every_call_has_a_deadline(shard: Shard, transport: GrpcTransport, address: str) -> None:
    transport.push(target(address), header(), PAYLOAD)
    assert 60 < shard.seconds_left <= bulk_seconds(len(PAYLOAD)) + 1
    shard.pull_frames = [HEADER, CHUNK, pull_end_frame(7)]
    transport.pull(target(address), pull_request())
    assert 100 < shard.seconds_left <= 603
    transport.pull(target(address), pull_request())
    assert 0 < shard.seconds_left <= BULK_SECONDS + 2 + 1, "the first header told how long the part is"
    transport.call(m.LeaseRequest("toy", "w", (), 7.0))
    assert 7 < shard.lease_seconds_left <= 18


def test_a_control_call_is_converted_both_ways(transport: GrpcTransport) -> None:
    reply = transport.call(m.LeaseRequest("toy", "w", (AttemptId(1, 2),), 0.0))
    assert reply == m.LeaseReply("wait", 3, "every slot is leased")


def test_a_refused_control_call_is_the_roles_own_error(shard: Shard, transport: GrpcTransport) -> None:
    shard.refusal = StaleIncarnation("attach again")
    with pytest.raises(StaleIncarnation, match="attach again"):
        transport.call(m.LeaseRequest("toy", "w"))


def test_a_call_the_server_does_not_know_is_refused_and_not_repeated(transport: GrpcTransport) -> None:
    with pytest.raises(PreconditionError, match=r"Attach at 127\.0\.0\.1:.* does not know this call"):
        transport.call(m.AttachRequest("toy", "w", "h", 1, ""))


def test_nobody_listening_is_a_transport_error_that_names_call_and_address() -> None:
    transport = GrpcTransport("127.0.0.1:1", {})
    with pytest.raises(TransportError, match=r"Status at 127\.0\.0\.1:1: UNAVAILABLE"):
        transport.call(m.StatusRequest("toy"))
    transport.close()


def test_channels_are_bounded_kept_and_ignore_proxies_unless_asked() -> None:
    options = dict(channel_options({}))
    assert options["grpc.max_send_message_length"] == options["grpc.max_receive_message_length"] == 8 << 20
    assert options["grpc.enable_http_proxy"] == 0
    assert dict(channel_options({"SHEEPFOLD_USE_PROXY": "1"}))["grpc.enable_http_proxy"] == 1


def test_every_request_has_a_method_and_a_reply() -> None:
    from sheepfold.transport.grpc import _METHODS

    assert _METHODS.keys() == REPLIES.keys()
    channel = grpc.insecure_channel("127.0.0.1:1")
    for stub, name in _METHODS.values():
        assert hasattr(stub(channel), name)
    channel.close()


def test_an_address_in_process_without_the_server_names_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sheepfold.transport.entry_points", lambda **_: [])
    with pytest.raises(TransportMissing, match=r"pip install 'sheepfold\[server\]'"):
        connect(parse_address("local:?shards=2"))


def test_an_address_chooses_its_transport() -> None:
    found = connect(parse_address("127.0.0.1:1"))
    assert isinstance(found, GrpcTransport)
    found.close()
