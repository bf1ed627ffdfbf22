"""What a job's status says about what is to come. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.history.history import NotKept
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import job_from_json
from sheepfold_wire.schedule import batch_at, learning_rate

STILL_STEPS = 3.0
"""Times the usual step's duration, as the coordinator's rate of the newest steps has it."""
LEASE_ENDS = re.compile(r"lease ends in (\d+(?:\.\d+)?) s")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Values at some steps from 0 to the stop, and always at both ends."""

    job: str
    step: list[int]
    learning_rate: list[float]
    slots: list[int]
    slot_samples: list[int]


def schedule(status: m.JobStatus, points: int) -> Schedule:
    """By the newest configuration; raises NotKept where it cannot be read."""
    try:
        job = job_from_json(status.config_json)
    except BadConfig as error:
        raise NotKept(f"the configuration of job {status.job!r} is not known here: {error}") from None
    last = max(0, status.stop_steps - 1)
    count = min(points, last + 1)
    steps = [0] if count == 1 else [round(i * last / (count - 1)) for i in range(count)]
    batches = [batch_at(job, step) for step in steps]
    return Schedule(
        status.job,
        steps,
        [learning_rate(job, step) for step in steps],
        [samples // slot for samples, slot in batches],
        [slot for _, slot in batches],
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """`eta_seconds` is None while nothing moves; `goodput` is None before a lease was decided."""

    eta_seconds: float | None
    steps_left: int
    goodput: float | None
    waste: dict[str, int]


def forecast(status: m.JobStatus, steps_per_second: float, waited_seconds: float) -> Forecast:
    """`waited_seconds` without progress of the open step: when it stands still, no rate of before holds."""
    left = 0 if status.state == "ended" else max(0, status.stop_steps - max(0, status.version))
    is_still = waited_seconds * status.steps_per_second > STILL_STEPS
    rate = steps_per_second or (0.0 if is_still else status.steps_per_second)
    counts = status.counts
    decided = counts.committed + counts.skipped + counts.dropped
    return Forecast(
        0.0 if left == 0 else left / rate if rate > 0 else None,
        left,
        counts.committed / decided if decided else None,
        {
            "leased_again": counts.leased_again,
            "skipped": counts.skipped,
            **{drop.reason: drop.count for drop in status.drops},
        },
    )


@dataclass(frozen=True, slots=True)
class Stall:
    """`since_seconds` without progress of the open step; `next_seconds` until its lease ends, if one does."""

    text: str
    since_seconds: float
    next_seconds: float | None


def stall(status: m.JobStatus, waited_seconds: float) -> Stall:
    """One sentence: what the job waits for, since when, and what happens next."""
    if status.state in ("paused", "ended"):
        return Stall(
            f"the job is {status.state}{f': {status.why}' if status.why else ''}", waited_seconds, None
        )
    ends = LEASE_ENDS.search(status.waiting_for)
    subject = "the job" if status.open_step < 0 else f"step {status.open_step}"
    return Stall(
        f"{subject} waits for {status.waiting_for or 'nothing'}, no progress for {waited_seconds:.1f} s",
        waited_seconds,
        None if ends is None else float(ends[1]),
    )
