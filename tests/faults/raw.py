"""A worker driven by hand: it can send any bytes at any moment, also those no client of ours would send."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tests.oracle.shards import pack

import sheepfold_wire.messages as m
from sheepfold.transport.grpc import GrpcTransport, translated
from sheepfold.transport.shared_memory import Region, hand_over
from sheepfold_wire.codecs import Codec
from sheepfold_wire.convert import from_proto, to_proto
from sheepfold_wire.frames import Buffer, chunk_frames, payload_digest, push_header_frame
from sheepfold_wire.job import Job
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.plan import Plan
from sheepfold_wire.v1 import shard_pb2
from sheepfold_wire.v1.shard_pb2_grpc import ShardServiceStub

CALL_SECONDS = 20.0

MANIFEST = Manifest(
    (TensorSpec("wide", (300, 700), "float32", "parameter"), TensorSpec("bias", (5,), "float32", "parameter"))
)


class RawWorker:
    """Leases through the ordinary transport, pushes frames of its own making."""

    def __init__(self, address: str, job: Job, name: str = "raw") -> None:
        self.job, self.name = job, name
        self.transport = GrpcTransport(address)
        self.transport.call(m.CreateJobRequest("", job.to_json()))
        self.attached = self._attach()
        self.plan = Plan.of(MANIFEST, len(self.attached.shards), job.placement.split_above_bytes)
        self.held: list[m.AttemptId] = []
        self._regions: list[Region] = []
        self._channels = {s.shard: grpc.insecure_channel(s.address) for s in self.attached.shards}

    def _attach(self) -> m.AttachReply:
        end = time.monotonic() + CALL_SECONDS
        request = m.AttachRequest(self.job.name, self.name, "test", 1, MANIFEST.to_json())
        while True:
            try:
                reply: m.AttachReply = self.transport.call(request)
                return reply
            except Exception:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        for region in self._regions:
            region.close()
        for channel in self._channels.values():
            channel.close()
        self.transport.close()

    def lease(self, wait_seconds: float = 10.0) -> m.Lease | None:
        """The next lease, of any kind; None if there is none in time or the job has ended."""
        request = m.LeaseRequest(self.job.name, self.name, tuple(self.held), wait_seconds)
        reply: m.LeaseReply = self.transport.call(request)
        if reply.lease is not None:
            self.held.append(reply.lease.attempt)
        return reply.lease

    def values(self, lease: m.Lease) -> list[npt.NDArray[np.float32]]:
        """What any worker computes for this lease: a function of step and slot alone."""
        draw = np.random.default_rng(
            7 if lease.is_init else 1000 + 64 * (lease.step or 0) + (lease.slot or 0)
        )
        return [draw.standard_normal(spec.shape).astype(np.float32) * 0.1 for spec in MANIFEST.tensors]

    def payload(
        self, lease: m.Lease, shard: int, values: list[npt.NDArray[np.float32]] | None = None
    ) -> bytes:
        """The part of one shard."""
        codec = Codec.FP32 if lease.is_init else Codec(self.job.wire.up)
        chosen = self.values(lease) if values is None else values
        named = {spec.name: value for spec, value in zip(MANIFEST.tensors, chosen, strict=True)}
        return pack(self.plan, shard, named, codec, lease.seed)

    def header(self, lease: m.Lease, to: int, payload: Buffer, **changes: Any) -> m.PushHeader:
        """The right header, but for `changes`."""
        address = self.attached.shards[to]
        header = m.PushHeader(
            job=self.job.name,
            attempt=lease.attempt,
            shard=to,
            incarnation=address.incarnation,
            term=self.attached.term,
            manifest_digest=MANIFEST.digest,
            plan_digest=self.plan.digest,
            codec="fp32" if lease.is_init else self.job.wire.up,
            payload_bytes=len(payload),
            payload_digest=payload_digest(payload),
            facts=m.Facts(
                lease.sample_count, float(max(1, lease.sample_count)), lease.base_version, b"\x03", 0.5
            ),
        )
        return replace(header, **changes)

    def send(self, shard: int, frames: Iterable[bytes]) -> m.PushReply:
        """Any frames to one shard; raises the shard's refusal."""
        method = self._channels[shard].stream_unary(
            "/sheepfold.v1.ShardService/Push", None, shard_pb2.PushReply.FromString
        )
        try:
            return from_proto(m.PushReply, method(iter(frames), timeout=CALL_SECONDS))
        except grpc.RpcError as error:
            raise translated(error, "push") from None

    def region(self, to: int, size: int) -> Region:
        """Memory that a shard holds from now on, for its calls in any order."""
        stub: Any = ShardServiceStub(self._channels[to])
        reply = stub.Share(shard_pb2.ShareRequest(), timeout=CALL_SECONDS)
        self._regions.append(hand_over(from_proto(m.ShareReply, reply), size))
        return self._regions[-1]

    def pull_request(self, to: int) -> m.PullRequest:
        """For the newest version."""
        incarnation, model, plan = self.attached.shards[to].incarnation, MANIFEST.digest, self.plan.digest
        return m.PullRequest(self.job.name, to, incarnation, model, plan, "fp32", None, 10.0)

    def pull_frames(self, to: int, **changes: Any) -> list[bytes]:
        """What a shard answers to a pull; `changes` are of the request."""
        method: Any = self._channels[to].unary_stream(
            "/sheepfold.v1.ShardService/Pull", shard_pb2.PullRequest.SerializeToString, None
        )
        return list(method(to_proto(replace(self.pull_request(to), **changes)), timeout=CALL_SECONDS))

    def push_part(self, lease: m.Lease, to: int, **changes: Any) -> m.PushReply:
        """One part as it should be, but for changes of its header."""
        payload = self.payload(lease, to)
        return self.send(
            to, [push_header_frame(self.header(lease, to, payload, **changes)), *chunk_frames(payload)]
        )

    def push_values(self, lease: m.Lease, to: int, values: list[npt.NDArray[np.float32]]) -> m.PushReply:
        """One part of other values than this worker would compute."""
        payload = self.payload(lease, to, values)
        return self.send(to, [push_header_frame(self.header(lease, to, payload)), *chunk_frames(payload)])

    def push(self, lease: m.Lease) -> None:
        """The whole contribution, to every shard."""
        for shard in range(len(self.attached.shards)):
            self.push_part(lease, shard)

    def work(self) -> None:
        """Do what an undisturbed worker does until the job has ended."""
        while (lease := self.lease()) is not None:
            self.push(lease)
