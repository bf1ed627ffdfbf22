"""TensorBoard: event files under DIR/JOB-LINEAGE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.summary import Writer

LINEAGE_DIGITS = 8


class TensorBoardRun:
    """Goes on in a new event file behind those of an earlier process."""

    def __init__(self, directory: str, job: str, lineage: str) -> None:
        path = Path(directory) / f"{job}-{lineage[:LINEAGE_DIGITS]}"
        path.mkdir(parents=True, exist_ok=True)
        self.newest = newest_version(path)
        self._writer = Writer(str(path))

    def write(self, version: int, values: Mapping[str, float], at: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, version, wall_time=at)
        self._writer.flush()
        self.newest = version

    def close(self) -> None:
        self._writer.close()


def newest_version(path: Path) -> int:
    """The highest step in the event files there; a last record that is torn is passed over."""
    newest = 0
    for file in sorted(path.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            newest = max(newest, event.step)
    return newest
