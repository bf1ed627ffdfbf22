"""The opening call of a worker: compared with the job, and answered with what it needs to know of it."""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.core.opening import Opening
from sheepfold_server.core.state import JobState
from sheepfold_wire.errors import BadConfig, DataMismatch, NotReady


def attach(state: JobState, opening: Opening, request: m.AttachRequest) -> m.AttachReply:
    """Make a worker or reader known. Raises what stands in AttachRequest of the .proto."""
    data = state.job.data
    if request.network not in ("", "cluster", "external"):
        raise BadConfig(f"network = {request.network!r}: give cluster or external")
    if request.data_samples and data.samples and request.data_samples != data.samples:
        raise DataMismatch(
            f"the data set has {request.data_samples} samples, the job says data.samples = {data.samples}"
        )
    if request.data_fingerprint and data.fingerprint and request.data_fingerprint != data.fingerprint:
        raise DataMismatch(
            f"the data set's fingerprint is {request.data_fingerprint}, the job's {data.fingerprint}"
        )
    if request.manifest_json:
        opening.take_manifest(request.manifest_json)
    if state.unusable is not None:
        raise state.unusable
    missing = [index for index, shard in enumerate(state.shards) if not shard.is_up]
    if missing:
        raise NotReady(f"shards {missing} of {len(state.shards)} have not connected to the coordinator yet")
    if state.geometry is None:
        raise NotReady(f"job {state.name} has no model yet; attach a worker first")
    if state.workers.get(request.worker) is None:
        state.quotas.check_workers(state.name, state.workers.attached)
    if state.workers.attach(request, state.now) and not request.is_reader:
        place = f"{request.host}, pid {request.pid}, {request.device}"
        state.event("attach", f"worker {request.worker} attached from {place}")
    return m.AttachReply(
        job=state.name,
        worker=request.worker,
        term=state.term,
        lineage=state.lineage,
        version=state.version,
        manifest_json=state.geometry.manifest.to_json(),
        config_json=state.resolved_json,
        shards=tuple(
            m.ShardAddress(i, s.address(request.network), s.incarnation)
            for i, s in enumerate(state.shards)
            if s.hello is not None
        ),
        heartbeat_seconds=min(2.0, state.job.leases.seconds / 4),
        durability=state.durability,
    )
