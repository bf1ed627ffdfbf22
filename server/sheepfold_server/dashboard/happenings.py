"""What happened to a job between two looks at its status. Pure: two statuses in, events out."""

from __future__ import annotations

from collections.abc import Iterator

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.history.events import Event

KINDS = ("attach", "leave", "restart", "lineage", "checkpoint", "change", "alert", "state", "skip")


def happenings(before: m.JobStatus | None, now: m.JobStatus, seconds: float) -> list[Event]:
    """Events, not numbered yet, seen at unix time `seconds`; `before` is None at the first look at a job."""
    step = max(0, now.version)

    def event(kind: str, text: str) -> Event:
        return Event(0, step, seconds, kind, text)

    found: list[Event] = []
    if before is None or before.lineage != now.lineage:
        found.append(event("lineage", f"history {now.lineage} is followed from version {now.version} on"))
    if before is not None:
        if before.term != now.term:
            found.append(event("restart", f"the coordinator began term {now.term} (before: {before.term})"))
        if before.state != now.state:
            why = f": {now.why}" if now.why else ""
            found.append(event("state", f"{before.state} became {now.state}{why}"))
        found += [event(kind, text) for kind, text in _shards(before.shards, now.shards)]
    workers = () if before is None else before.workers
    found += [event(kind, text) for kind, text in _workers(workers, now.workers)]
    return found


def changes(status: m.JobStatus, seconds: float) -> list[Event]:
    """Everything that was changed while the job ran, as its status tells it again and again."""
    return [
        Event(0, change.from_step, seconds, "change", change.text, change.author) for change in status.changes
    ]


def skip(report: m.StepReport, seconds: float) -> Event:
    return Event(0, report.step, seconds, "skip", f"step {report.step} was skipped: {report.skip_reason}")


def _workers(
    before: tuple[m.WorkerStatus, ...], now: tuple[m.WorkerStatus, ...]
) -> Iterator[tuple[str, str]]:
    old, new = ({(w.worker, w.host, w.pid): w for w in workers} for workers in (before, now))
    for key in old.keys() - new.keys():
        gone = old[key]
        yield (
            "leave",
            f"{gone.worker} on {gone.host} (pid {gone.pid}) left or fell silent, "
            f"{gone.slots_committed} slots of its counted",
        )
    for key in new.keys() - old.keys():
        came = new[key]
        yield "attach", f"{came.worker} on {came.host} (pid {came.pid}) attached, computing on {came.device}"


def _shards(before: tuple[m.ShardStatus, ...], now: tuple[m.ShardStatus, ...]) -> Iterator[tuple[str, str]]:
    old = {shard.shard: shard for shard in before}
    for shard in now:
        was = old.get(shard.shard)
        if was is None:
            continue
        if was.incarnation != shard.incarnation:
            yield (
                "restart",
                f"shard {shard.shard} runs as incarnation {shard.incarnation} (before: {was.incarnation})",
            )
        if was.is_connected and not shard.is_connected:
            yield "leave", f"shard {shard.shard} at {shard.address} lost its link to the coordinator"
        if shard.is_connected and not was.is_connected:
            yield "attach", f"shard {shard.shard} at {shard.address} is linked to the coordinator"
