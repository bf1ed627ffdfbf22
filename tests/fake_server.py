"""A server in a few lines behind the client's one seam, the Transport: it does plain gradient descent.

It answers as the real roles do (same errors, same messages), one step at a time, and fails when told to.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import sheepfold_wire.messages as m
from sheepfold.layout import PartLayout, Stretches
from sheepfold.transport import CoordinatorRequest, Ranges
from sheepfold_wire.codecs import Buffer, Codec, decode, encode
from sheepfold_wire.errors import (
    BadConfig,
    ConfigMismatch,
    JobUnknown,
    LeaseEnded,
    ManifestMismatch,
    NonFinite,
    NotReady,
    StaleIncarnation,
    VersionGone,
    WorkerUnknown,
)
from sheepfold_wire.frames import payload_digest
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.int8 import decode_rows
from sheepfold_wire.job import Job, first_difference, job_from_json, parse_job
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.manifest import first_difference as first_manifest_difference
from sheepfold_wire.plan import Plan
from sheepfold_wire.samples import slot_seed

RATE = 0.5


def job_of(name: str = "toy", **sections: Any) -> Job:
    """A small indexed job: 2 slots of 4 samples, 3 steps, fp32 up; a section given replaces its namesake."""
    values: dict[str, Any] = {
        "name": name,
        "batch": {"samples": 8, "slot_samples": 4},
        "data": {"samples": 32, "seed": 5},
        "optimizer": {"lr": {"peak": RATE}},
        "wire": {"up": "fp32"},
        "stop": {"steps": 3},
        "seed": 11,
        **sections,
    }
    return parse_job(values)


@dataclass(slots=True)
class Attempt:
    lease: m.Lease
    worker: str
    parts: dict[int, bytes] = field(default_factory=dict)
    facts: m.Facts | None = None


class FakeServer:
    """Coordinator and shards in one object; all calls under one lock. `job` None: created by CreateJob."""

    def __init__(self, job: Job | None = None, shards: int = 2) -> None:
        self.job = job
        self.shards = shards
        self.version = -1
        self.incarnations = [1] * shards
        self.workers: set[str] = set()
        self.calls: list[Any] = []
        self.failures: dict[str, deque[Exception]] = defaultdict(deque)
        """Raised by the next calls of that name: push, pull, or the class of a request."""
        self.ended = ""
        self.oldest = 0
        self.loss_scale = 0.0
        self.pushed: list[Attempt] = []
        self.layouts: list[PartLayout] = []
        self._plan: Plan | None = None
        self._weights: dict[int, list[Stretches]] = {}
        self._live: dict[AttemptId, Attempt] = {}
        self._dead: set[AttemptId] = set()
        self._counter = 0
        self._admitted: dict[int, Attempt] = {}
        self._lock = threading.RLock()
        self._left = threading.Event()

    def connect(self) -> FakeTransport:
        return FakeTransport(self)

    @property
    def plan(self) -> Plan:
        assert self._plan is not None
        return self._plan

    def named(self, name: str) -> list[Any]:
        """The requests of that class so far."""
        return [call for call in self.calls if type(call).__name__ == name]

    def end_leases(self) -> None:
        """As if they had expired."""
        self._dead.update(self._live)
        self._live.clear()

    def restart_shard(self, shard: int) -> None:
        self.incarnations[shard] += 1

    def raise_failure(self, name: str) -> None:
        if self.failures[name]:
            raise self.failures[name].popleft()

    # --- coordinator --------------------------------------------------------------------------------

    def call(self, request: CoordinatorRequest) -> Any:
        if isinstance(request, m.HeartbeatRequest) and request.wait_seconds > 0.0:  # comes by itself
            self._left.wait(request.wait_seconds)
            return m.HeartbeatReply("running", self.version)
        with self._lock:
            self.calls.append(request)
            self.raise_failure(type(request).__name__)
            match request:
                case m.CreateJobRequest():
                    return self._create(request)
                case m.ListJobsRequest():
                    return m.ListJobsReply(() if self.job is None else (self.job.name,))
                case m.AttachRequest():
                    return self._attach(request)
                case m.LeaseRequest():
                    return self._lease(request)
                case m.HeartbeatRequest():
                    return m.HeartbeatReply("running", self.version)
                case m.ReleaseRequest():
                    return self._release(request)
            raise BadConfig(f"the fake knows no {type(request).__name__}")

    def _create(self, request: m.CreateJobRequest) -> m.CreateJobReply:
        asked = job_from_json(request.config_json)
        is_new = self.job is None
        if self.job is not None and (difference := first_difference(self.job, asked)):
            raise ConfigMismatch(difference)
        self.job = asked
        return m.CreateJobReply(asked.name, is_new)

    def _attach(self, request: m.AttachRequest) -> m.AttachReply:
        if self.job is None or request.job != self.job.name:
            raise JobUnknown(f"no job {request.job} here")
        if request.manifest_json:
            self._take_manifest(Manifest.from_json(request.manifest_json))
        if self._plan is None:
            raise NotReady("no worker has brought a model yet")
        self.workers.add(request.worker)
        shards = (m.ShardAddress(i, f"shard-{i}", n) for i, n in enumerate(self.incarnations))
        texts = self.plan.manifest.to_json(), self.job.to_json()
        return m.AttachReply(
            self.job.name, request.worker, 1, "lineage", self.version, *texts, tuple(shards), 3600.0
        )

    def _take_manifest(self, manifest: Manifest) -> None:
        assert self.job is not None
        if self._plan is not None:
            if difference := first_manifest_difference(self.plan.manifest, manifest):
                raise ManifestMismatch(difference)
            return
        self._plan = Plan.of(manifest, self.shards, self.job.placement.split_above_bytes)
        self.layouts = [PartLayout(self._plan, shard) for shard in range(self.shards)]

    def _lease(self, request: m.LeaseRequest) -> m.LeaseReply:
        assert self.job is not None
        if request.worker not in self.workers:
            raise WorkerUnknown(f"{request.worker} is not attached; attach again")
        if self.version >= self.job.stop.steps:
            self.ended = "all steps are committed"
        if self.ended:
            return m.LeaseReply("ended", self.version, self.ended)
        for attempt in self._live.values():
            if attempt.worker == request.worker and attempt.lease.attempt not in request.holding:
                return m.LeaseReply("leased", self.version, "", attempt.lease)
        lease = self._new_lease()
        if lease is None:
            return m.LeaseReply("wait", self.version, "every slot is leased")
        self._live[lease.attempt] = Attempt(lease, request.worker)
        return m.LeaseReply("leased", self.version, "", lease)

    def _new_lease(self) -> m.Lease | None:
        job = self.job
        assert job is not None
        taken = {a.lease.slot for a in self._live.values()} | self._admitted.keys()
        self._counter += 1
        attempt = AttemptId(1, self._counter)
        if self.version < 0:
            return None if taken else m.Lease(attempt, True, -1, 0, 0, job.seed, 30.0)
        size, step = job.batch.slot_samples, self.version
        slot = next((k for k in range(job.batch.samples // size) if k not in taken), None)
        if slot is None:
            return None
        start, seed = step * job.batch.samples + slot * size, slot_seed(job.seed, step, slot)
        return m.Lease(
            attempt, False, self.version, start, size, seed, 30.0, step, slot, loss_scale=self.loss_scale
        )

    def _release(self, request: m.ReleaseRequest) -> m.ReleaseReply:
        given = [a for a in self._live.values() if a.worker == request.worker]
        if request.attempts:
            given = [a for a in given if a.lease.attempt in request.attempts]
        for attempt in given:
            del self._live[attempt.lease.attempt]
            self._dead.add(attempt.lease.attempt)
        if request.is_leaving:
            self.workers.discard(request.worker)
            self._left.set()
        return m.ReleaseReply(len(given))

    # --- shards -------------------------------------------------------------------------------------

    def push(self, header: m.PushHeader, payload: Buffer) -> m.PushReply:
        with self._lock:
            self.calls.append(header)
            self.raise_failure("push")
            self._check(header.incarnation, header.shard, header.plan_digest)
            if header.attempt in self._dead:
                raise LeaseEnded(f"attempt {header.attempt} has ended; lease again")
            assert header.payload_bytes == len(payload)
            assert header.payload_digest == payload_digest(payload)
            attempt = self._live.get(header.attempt)
            if attempt is None or header.shard in attempt.parts:
                return m.PushReply(True)
            values = self.layouts[header.shard].stretches(payload, Codec(header.codec))
            if not np.isfinite(_decoded(values, Codec(header.codec))).all():
                self._dead.add(header.attempt)
                del self._live[header.attempt]
                raise NonFinite("1 elements of tensor x are NaN or infinite; the slot is leased again")
            attempt.parts[header.shard], attempt.facts = bytes(payload), header.facts
            if len(attempt.parts) == self.shards:
                self._staged(attempt, Codec(header.codec))
            return m.PushReply(False)

    def _check(self, incarnation: int, shard: int, plan_digest: str) -> None:
        if incarnation != self.incarnations[shard]:
            raise StaleIncarnation(
                f"shard {shard} is at incarnation {self.incarnations[shard]}; attach again"
            )
        assert plan_digest == self.plan.digest

    def _staged(self, attempt: Attempt, codec: Codec) -> None:
        assert self.job is not None
        del self._live[attempt.lease.attempt]
        self.pushed.append(attempt)
        if attempt.lease.is_init:
            self._weights[0] = [self._decoded(shard, attempt, codec) for shard in range(self.shards)]
            self.version = 0
            return
        assert attempt.lease.slot is not None
        self._admitted[attempt.lease.slot] = attempt
        if len(self._admitted) == self.job.batch.samples // self.job.batch.slot_samples:
            self._commit(codec)

    def _commit(self, codec: Codec) -> None:
        """w -= RATE * weighted mean; float statistics by weighted mean, integers by maximum."""
        winners = [self._admitted[slot] for slot in sorted(self._admitted)]
        weights = [a.facts.weight for a in winners if a.facts is not None]
        made: list[Stretches] = []
        for shard, old in enumerate(self._weights[self.version]):
            parts = [self._decoded(shard, attempt, codec) for attempt in winners]
            mean = np.average([p.parameters for p in parts], axis=0, weights=weights)
            floats = np.average([p.floats for p in parts], axis=0, weights=weights)
            made.append(
                Stretches(
                    (old.parameters - RATE * mean).astype(np.float32),
                    floats.astype(np.float32),
                    np.max([p.integers for p in parts], axis=0),
                    old.scales,
                )
            )
        self.version += 1
        self._weights[self.version] = made
        self._admitted = {}

    def _decoded(self, shard: int, attempt: Attempt, codec: Codec) -> Stretches:
        view = self.layouts[shard].stretches(attempt.parts[shard], codec)
        return Stretches(
            _decoded(view, codec).copy(), view.floats.copy(), view.integers.copy(), np.empty(0, np.float32)
        )

    def pull(self, request: m.PullRequest) -> tuple[int, Buffer]:
        with self._lock:
            self.calls.append(request)
            self.raise_failure("pull")
            self._check(request.incarnation, request.shard, request.plan_digest)
            version = self.version if request.version is None else request.version
            if version > self.version or self.version < 0:
                raise NotReady(f"version {version} is not made yet")
            if version < self.oldest:
                raise VersionGone(f"version {version} is no longer served; pull the newest")
            codec, layout = Codec(request.codec), self.layouts[request.shard]
            part, held = layout.new_part(codec), self._weights[version][request.shard]
            view = layout.stretches(part, codec)
            encode(codec, held.parameters, view.parameters)
            view.floats[:], view.integers[:] = held.floats, held.integers
            return version, part.tobytes()

    def digest(self, shard: int) -> m.DigestReply:
        with self._lock:
            self.raise_failure("digest")
            held = self._weights[self.version][shard]
            entry = m.DigestEntry(shard, payload_digest(held.parameters.tobytes()))
            return m.DigestReply(self.version, (entry,))


def _decoded(part: Stretches, codec: Codec) -> npt.NDArray[np.float32]:
    if codec.has_scales:
        return decode_rows(part.parameters, part.scales)
    return decode(codec, part.parameters)


class FakeTransport:
    """One client's connection to a FakeServer."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.is_closed = False

    def call(self, request: CoordinatorRequest) -> Any:
        return self.server.call(request)

    def push_ahead(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, ranges: Ranges
    ) -> bool:
        return False

    def push(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, brought: Ranges = ()
    ) -> m.PushReply:
        return self.server.push(header, payload)

    def pull(self, address: m.ShardAddress, request: m.PullRequest) -> tuple[int, Buffer]:
        return self.server.pull(request)

    def digest(self, address: m.ShardAddress, job: str) -> m.DigestReply:
        return self.server.digest(address.shard)

    def room(self, address: m.ShardAddress, size: int) -> memoryview | None:
        return None

    def way(self, address: m.ShardAddress) -> str:
        return "a test"

    def close(self) -> None:
        self.is_closed = True
