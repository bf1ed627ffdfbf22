"""What a tracker is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol


class Tracker(Protocol):
    """One run of one job."""

    newest: int
    """Newest version written, by this process or by an earlier one; nothing up to it is written again."""

    def write(self, version: int, values: Mapping[str, float], at: float) -> None:
        """`at`: seconds since 1970."""

    def close(self) -> None: ...


Opened = Callable[[str, str], Tracker]
"""The run of (job, lineage), begun or gone on with."""


class TrackerMissing(Exception):
    """A tracker that is not known, or not installed; the text names the remedy."""
