"""Jobs that only the history tells of: the coordinator does not list them, or was not heard yet. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sheepfold_server.dashboard.history.history import NotKept


@dataclass(frozen=True, slots=True)
class KeptJob:
    """What is known of a job without a coordinator."""

    job: str
    lineage: str
    """The newest one."""
    version: int
    """The newest that a kept step made; -1 before one."""
    kept_until_seconds: float | None
    """Unix time of the newest that is kept; None if nothing is."""
    state: str
    why: str
    stop_steps: None = None


class OnlyKept(NotKept):
    """What only a coordinator can tell of a job that it does not list, or of which it was not heard yet."""

    def __init__(self, kept: KeptJob) -> None:
        super().__init__(
            f"job {kept.job!r} is {kept.state}, and this is what only the coordinator can tell: {kept.why} "
            "under steps, series, slices, heatmap, events, alerts and lineages"
        )


def not_listed(job: str, lineage: str, version: int, until: float | None) -> KeptJob:
    """The coordinator answers, and has no such job."""
    why = f"the coordinator does not list this job (any more); {_what_is_shown(until)}"
    return KeptJob(job, lineage, version, until, "not listed", why)


def unknown(job: str, lineage: str, version: int, until: float | None) -> KeptJob:
    """The coordinator has not told of the job since this process began."""
    why = f"the coordinator was not heard since this dashboard was started; {_what_is_shown(until)}"
    return KeptJob(job, lineage, version, until, "unknown", why)


def _what_is_shown(until: float | None) -> str:
    if until is None:
        return "what was kept of it is shown"
    return f"what was kept of it until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S} UTC is shown"
