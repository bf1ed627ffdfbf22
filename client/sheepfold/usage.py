"""Where a worker's time goes, and what its traffic with each shard costs; told with each heartbeat."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import sheepfold_wire.messages as m

T = TypeVar("T")

ZONE = "SHEEPFOLD_ZONE"
PACKAGES = ("sheepfold", "torch")


class Usage:
    """Sums since the worker began. Any thread may add to them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._traffic: dict[int, m.ShardTraffic] = {}
        self._slot_seconds = self._round_trip_seconds = 0.0
        self.data_wait_seconds = 0.0
        """That the script has waited for its loader; set by whoever knows."""

    def timed(self, call: Callable[[], T]) -> tuple[T, float]:
        """What the call returns, and the seconds it took."""
        began = self._clock()
        answer = call()
        return answer, self._clock() - began

    def pushed(self, shard: int, count: int, seconds: float, way: str) -> None:
        self._add(m.ShardTraffic(shard, count, seconds, 0, 0.0, way))

    def pulled(self, shard: int, count: int, seconds: float, way: str) -> None:
        self._add(m.ShardTraffic(shard, 0, 0.0, count, seconds, way))

    def _add(self, new: m.ShardTraffic) -> None:
        with self._lock:
            old = self._traffic.get(new.shard, m.ShardTraffic(new.shard, 0, 0.0, 0, 0.0))
            self._traffic[new.shard] = m.ShardTraffic(
                new.shard,
                old.bytes_up + new.bytes_up,
                old.seconds_up + new.seconds_up,
                old.bytes_down + new.bytes_down,
                old.seconds_down + new.seconds_down,
                new.way,
            )

    def computed(self, seconds: float) -> None:
        """A slot took so long, from its lease to its contribution."""
        with self._lock:
            self._slot_seconds += seconds

    def round_trip(self, seconds: float) -> None:
        with self._lock:
            self._round_trip_seconds = seconds

    def told(self) -> m.WorkerUsage:
        with self._lock:
            traffic = tuple(self._traffic[shard] for shard in sorted(self._traffic))
            slot, wait = self._slot_seconds, self.data_wait_seconds
            return m.WorkerUsage(slot, wait, self._round_trip_seconds, traffic)


def versions() -> str:
    """Of Python and of what matters to a job, for people."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def zone(environ: Mapping[str, str] = os.environ) -> str:
    """Where this worker runs, as whoever started it says."""
    return environ.get(ZONE, "")[:64]
