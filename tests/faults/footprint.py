"""What processes hold of a machine, sampled over time, and whether it grows."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

MEBIBYTE = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process."""

    at: float
    """Seconds of the monotonic clock."""
    rss_mb: float
    descriptors: int
    threads: int


def sample(pid: int) -> Sample | None:
    """None if it is gone."""
    process = Path(f"/proc/{pid}")
    try:
        resident = int((process / "statm").read_text().split()[1]) * PAGE_BYTES / MEBIBYTE
        descriptors = len(os.listdir(process / "fd"))
        threads = len(os.listdir(process / "task"))
    except (OSError, IndexError):
        return None
    return Sample(time.monotonic(), resident, descriptors, threads)


def cpu_seconds(pid: int) -> float:
    """Of user and system, since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@dataclass(slots=True)
class Footprint:
    """The samples of one process that lived throughout."""

    samples: list[Sample] = field(default_factory=list)

    def growth(self, of: str, warm_up: float) -> float:
        """By how much a straight line through the samples rises, without the first part of the time."""
        first, last = self.samples[0].at, self.samples[-1].at
        kept = [s for s in self.samples if s.at - first >= warm_up * (last - first)]
        if len(kept) < 3:
            raise ValueError(f"{len(kept)} samples are left of {len(self.samples)}: run it longer")
        line = statistics.linear_regression([s.at for s in kept], [getattr(s, of) for s in kept])
        return float(line.slope * (kept[-1].at - kept[0].at))

    def largest(self, of: str) -> float:
        return max(float(getattr(s, of)) for s in self.samples)
