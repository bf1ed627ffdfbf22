"""What happened to a job, as its status tells it again and again. Pure: statuses in, events out."""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.history.events import Event


def happenings(before: m.JobStatus | None, now: m.JobStatus, seconds: float) -> list[Event]:
    """What the coordinator itself does not tell; not numbered yet, seen at unix time `seconds`.

    `before` is None at the first look at a job.
    """
    step = max(0, now.version)
    found: list[Event] = []
    if before is None or before.lineage != now.lineage:
        text = f"history {now.lineage} is followed from version {now.version} on"
        found.append(Event(0, step, seconds, "lineage", text))
    if before is not None and before.term != now.term:
        text = f"the coordinator began term {now.term} (before: {before.term})"
        found.append(Event(0, step, seconds, "restart", text))
    return found


def told_events(status: m.JobStatus, seconds: float, after: int) -> list[Event]:
    """What the coordinator tells and had not told by its event number `after`, at unix time `seconds`."""
    return [
        Event(0, event.step, seconds - event.age_seconds, event.kind, event.text, event.author)
        for event in status.events
        if event.number > after
    ]
