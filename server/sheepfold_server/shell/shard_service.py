"""The shard's gRPC service: bulk frames in and out, one part or one version per call.

Sync server, client-streaming push, server-streaming pull, 1 MiB frames: chosen by measurement, see
server/DECISIONS.md. A call without a deadline is refused, so that no stream stays open for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, cast

import grpc
import xxhash

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.headers import check_pull
from sheepfold_server.core.permissions import Caller
from sheepfold_server.shell.options import has_deadline
from sheepfold_server.shell.patience import Patience
from sheepfold_server.shell.shard_actor import ShardActor
from sheepfold_server.shell.shard_process import ShardProcess
from sheepfold_server.shell.shared_memory import Regions
from sheepfold_server.shell.transfers import AheadPart, Served
from sheepfold_wire import frames
from sheepfold_wire.codecs import Codec
from sheepfold_wire.convert import from_proto, to_proto
from sheepfold_wire.digest import Entry
from sheepfold_wire.errors import (
    AttemptNotAnnounced,
    BadFrame,
    ChunkChecksumMismatch,
    InvalidError,
    JobUnknown,
    NotReady,
    RegionGone,
    ShapeMismatch,
)
from sheepfold_wire.pooling import BufferPool
from sheepfold_wire.v1 import shard_pb2

log = logging.getLogger(__name__)

SERVICE = "sheepfold.v1.ShardService"
CORE_ANSWERS_SECONDS = 30.0
ANNOUNCED_SECONDS = 2.0
"""How long a push waits for the coordinator's word of its lease."""


def guarded(context: Any, work: Callable[[], Any]) -> Any:
    """The result of `work`. Jobs of others look as if they were not there.

    `context`: a `gate.Admitted`; the gate tells the caller of errors.
    """
    if not has_deadline(context.time_remaining()):
        raise InvalidError("the call has no deadline; set one (e.g. 60 s)")
    try:
        return work()
    except JobUnknown:
        if not context.caller.is_scoped:
            raise
        raise JobUnknown(
            f"no such job for this credential, which is for job {context.caller.job!r}"
        ) from None


class ShardService:
    """Push, Pull, Digest and Share of one shard process."""

    def __init__(self, process: ShardProcess, patience: Patience, regions: Regions) -> None:
        self._process, self._patience, self._regions = process, patience, regions
        self._parts = BufferPool(process.config.staging_bytes)
        """Of all jobs: what their parts are received into."""

    def handler(self) -> grpc.GenericRpcHandler:
        """Identity (de)serialisers for frames: a tensor's bytes never pass through a message object."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Push": grpc.stream_unary_rpc_method_handler(
                    self.push, None, shard_pb2.PushReply.SerializeToString
                ),
                "Pull": grpc.unary_stream_rpc_method_handler(
                    self.pull, shard_pb2.PullRequest.FromString, None
                ),
                "Digest": grpc.unary_unary_rpc_method_handler(
                    self.digest, shard_pb2.DigestRequest.FromString, shard_pb2.DigestReply.SerializeToString
                ),
                "Share": grpc.unary_unary_rpc_method_handler(
                    self.share, shard_pb2.ShareRequest.FromString, shard_pb2.ShareReply.SerializeToString
                ),
            },
        )

    def _actor(self, job: str, caller: Caller) -> ShardActor:
        caller.check_job(job)
        return self._process.actor(job)

    # --- push -----------------------------------------------------------------------------------------

    def push(self, requests: Iterator[bytes], context: Any) -> Any:
        frames_of_it = self._patience.frames(requests, context)
        return guarded(context, lambda: to_proto(self._push(frames_of_it, context.caller)))

    def _push(self, requests: Iterator[bytes], caller: Caller) -> m.PushReply:
        first = next(requests, None)
        if first is None:
            raise BadFrame("the stream ended before its header")
        header = frames.read_push_frame(first)
        if not isinstance(header, m.PushHeader):
            raise BadFrame("the first frame of a push must be its header")
        actor = self._actor(header.job, caller)
        token, future = actor.open_push(header)
        try:
            answer = future.result(ANNOUNCED_SECONDS)
        except FutureTimeout:
            actor.push_broken(token)
            raise AttemptNotAnnounced(
                f"attempt {header.attempt} was not announced within {ANNOUNCED_SECONDS:.0f} s; send it "
                "again, or ask for a lease"
            ) from None
        if isinstance(answer, e.AnswerPush):
            return m.PushReply(duplicate=True)
        held = cast(AheadPart, answer)
        if header.is_ahead:
            with held.stream():
                self._receive_ahead(requests, header, held)
            return m.PushReply(duplicate=False)
        try:
            payload, codec = self._receive(requests, header, held), Codec(header.codec)
            check = check_part(actor, payload, codec, header.facts.present)
        except BaseException:
            actor.push_broken(token)
            raise
        _await(actor.received(token, header.attempt, payload, codec, check))
        return m.PushReply(duplicate=False)

    def _receive_ahead(self, requests: Iterator[bytes], header: m.PushHeader, held: AheadPart) -> None:
        """Raises AheadGone, BadFrame or ChunkChecksumMismatch; what came before is kept."""
        for frame in requests:
            match frames.read_push_frame(frame):
                case frames.Chunk() as chunk:
                    held.add(chunk, header.payload_bytes, self._parts)
                case _:
                    raise BadFrame("what is pushed ahead comes in chunks; send nothing else after the header")

    def _receive(self, requests: Iterator[bytes], header: m.PushHeader, held: AheadPart) -> bytearray:
        """The whole payload. Keeps nothing where it raises.

        Raises BadFrame, RegionGone, AheadGone, ChunkChecksumMismatch.
        """
        buffer = held.take(header.ahead_bytes) or frames.PartBuffer(header.payload_bytes, self._parts)
        digest, seen = xxhash.xxh3_128(), 0
        for frame in requests:
            match frames.read_push_frame(frame):
                case frames.Chunk() as chunk:
                    buffer.add(chunk)
                    digest.update(memoryview(buffer.payload)[seen : buffer.prefix])
                    seen = buffer.prefix
                case frames.InRegion(region):
                    with buffer.whole() as payload:
                        self._regions.read(region, payload, digest.update)
                    seen = buffer.prefix
                case _:
                    raise BadFrame("a second header arrived inside a push")
        payload = buffer.finish()
        digest.update(memoryview(payload)[seen:])
        if digest.digest() != header.payload_digest:
            raise ChunkChecksumMismatch(
                f"the part's digest is {digest.hexdigest()}, its header says {header.payload_digest.hex()}; "
                "send the part again"
            )
        return payload

    # --- pull -----------------------------------------------------------------------------------------

    def pull(self, request: shard_pb2.PullRequest, context: Any) -> Iterator[bytes]:
        asked = from_proto(m.PullRequest, request)
        actor, served = guarded(context, lambda: self._pull(asked, context))
        yield frames.pull_header_frame(m.PullHeader(served.version, len(served.payload)))
        checksum = self._written(asked.region, served.payload)
        if checksum is None:
            yield from frames.chunk_frames(served.payload)
        else:
            yield frames.pull_region_frame(checksum)
        yield frames.pull_end_frame(served.version)
        actor.note_sent(len(served.payload))

    def _pull(self, asked: m.PullRequest, context: Any) -> tuple[ShardActor, Served]:
        actor = self._actor(asked.job, context.caller)
        if asked.shard != actor.job.shard:
            raise JobUnknown(f"this is shard {actor.job.shard}, the pull is for shard {asked.shard}")
        check_pull(actor.job, asked)
        token, future = actor.pull(asked.version, Codec(asked.codec))
        wait = max(0.0, min(asked.wait_seconds, context.time_remaining() - 1.0))
        try:
            return actor, cast(Served, future.result(wait))
        except FutureTimeout:
            actor.pull_gone(token)
            raise NotReady(
                f"version {asked.version} was not applied within {wait:.1f} s; pull again"
            ) from None

    def _written(self, region: int, payload: frames.Buffer) -> int | None:
        """The checksum of what is in the region now; None if the payload has to go in chunks."""
        try:
            return self._regions.write(region, payload) if region else None
        except (RegionGone, BadFrame) as error:
            log.info("a pull is answered in frames: %s", error)
            return None

    # --- shared memory --------------------------------------------------------------------------------

    def share(self, request: shard_pb2.ShareRequest, context: Any) -> Any:
        return guarded(context, lambda: to_proto(self._regions.invite()))

    # --- digest -----------------------------------------------------------------------------------------

    def digest(self, request: shard_pb2.DigestRequest, context: Any) -> Any:
        return guarded(context, lambda: to_proto(self._digest(self._actor(request.job, context.caller))))

    def _digest(self, actor: ShardActor) -> m.DigestReply:
        version, found = cast(tuple[int, list[Entry]], _await(actor.digest()))
        return m.DigestReply(version, entries(found))


def _await(future: Future[object]) -> object:
    try:
        return future.result(CORE_ANSWERS_SECONDS)
    except FutureTimeout:
        raise NotReady(f"no decision within {CORE_ANSWERS_SECONDS:.0f} s; try again") from None


def check_part(actor: ShardActor, payload: frames.Buffer, codec: Codec, present: bytes) -> e.PartCheck:
    """The staging pass: finite test and sums of squares, in this call's own thread, outside the kernel's."""
    check = actor.tensors.check(payload, codec)
    if not check.padding_is_zero:
        raise ShapeMismatch("the part has values in its padding; elements beyond a slice's end must be 0")
    for tensor, squares in zip(actor.tensor_of_block, check.sum_of_squares, strict=True):
        if squares and not present[tensor // 8] >> tensor % 8 & 1:
            name = actor.tensors.layout.plan.manifest.tensors[tensor].name
            raise ShapeMismatch(f"tensor {name} is marked absent and has values; absent tensors must be 0")
    name, count = next(iter(check.nonfinite.items()), ("", 0))
    return e.PartCheck(tuple(check.sum_of_squares.tolist()), name, count)


def entries(found: list[Entry]) -> tuple[m.DigestEntry, ...]:
    return tuple(m.DigestEntry(index, digest) for index, digest in found)
