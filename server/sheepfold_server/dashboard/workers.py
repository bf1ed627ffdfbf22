"""Workers as the API tells of them: rates from the sums that they measured."""

from __future__ import annotations

from collections.abc import Iterable

import sheepfold_wire.messages as m
from sheepfold_server.dashboard import event_models, models


def worker_answer(status: m.WorkerStatus) -> models.Worker:
    usage = status.usage or m.WorkerUsage()
    has_loader = usage.slot_seconds > 0 and usage.data_wait_seconds > 0
    return models.Worker(
        worker=status.worker,
        host=status.host,
        pid=status.pid,
        device=status.device,
        seconds_since_seen=status.seconds_since_seen,
        slots_committed=status.slots_committed,
        samples_committed=status.samples_committed,
        holding=status.holding,
        seconds_attached=status.seconds_attached,
        versions=status.versions,
        zone=status.zone,
        refused=status.refused,
        data_wait_share=usage.data_wait_seconds / usage.slot_seconds if has_loader else None,
        round_trip_seconds=usage.round_trip_seconds or None,
        up_bytes_per_second=_rate((t.bytes_up, t.seconds_up) for t in usage.traffic),
        down_bytes_per_second=_rate((t.bytes_down, t.seconds_down) for t in usage.traffic),
        way=", ".join(sorted({t.way for t in usage.traffic if t.way})),
        traffic=[
            models.Traffic(
                shard=t.shard,
                bytes_up=t.bytes_up,
                bytes_down=t.bytes_down,
                up_bytes_per_second=_rate([(t.bytes_up, t.seconds_up)]),
                down_bytes_per_second=_rate([(t.bytes_down, t.seconds_down)]),
            )
            for t in usage.traffic
        ],
    )


def _rate(sums: Iterable[tuple[int, float]]) -> float | None:
    """Bytes per second of calls; those to several shards run side by side, so their rates add up."""
    rates = [count / seconds for count, seconds in sums if seconds > 0]
    return sum(rates) if rates else None


def live_status(status: m.JobStatus) -> event_models.LiveStatus:
    """A job with its workers and shards, as the stream tells of it."""
    facts = models.Job.model_validate(status).model_dump()
    return event_models.LiveStatus(
        **facts,
        workers=[worker_answer(worker) for worker in status.workers],
        shards=[models.Shard.model_validate(shard) for shard in status.shards],
    )
