"""What a step costs as one thing grows: parameters, tensors, workers or shards.

    make bench-scale    or    python -m tests.bench.scale [--only workers] [--full] [--steps 10]

Real servers under `up`'s supervisor; each worker is a process (NumPy, computing nothing) that pushes one slot
of a step in bf16 and pulls fp32, over gRPC: a fleet has a network. Eager kernel, level `checkpoint`, all on
this machine, so that seconds say what its processors can do, and CPU-seconds what a fleet would need.
`cpu_s`: of the coordinator, of all shards, of all workers, in a step. One line of JSON comes last.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tests.bench.plan import measured, servers

TINY, MIDDLE = 1 << 16, 1 << 24


@dataclass(frozen=True, slots=True)
class Point:
    """One configuration; `tensors` of equal size, 0: of 262,144 parameters each."""

    workers: int = 1
    shards: int = 1
    parameters: int = MIDDLE
    tensors: int = 0


def sweeps(is_full: bool) -> dict[str, list[Point]]:
    sizes = [1 << 20, 1 << 22, 1 << 24, 1 << 26, *([1 << 28, 500_000_000] if is_full else [])]
    return {
        "parameters": [Point(parameters=size) for size in sizes],
        "tensors": [Point(parameters=10_240_000, tensors=count) for count in (10, 100, 1_000, 10_000)],
        "workers": [Point(workers=count, parameters=TINY) for count in (1, 2, 4, 8, 16, 32, 64)],
        "shards": [Point(workers=2, shards=count) for count in (1, 2, 4, 8)],
    }


def row_of(sweep: str, point: Point, steps: int) -> dict[str, Any]:
    with servers(point.shards) as fleet:
        found = measured(fleet, point.workers, point.parameters, steps, point.tensors)
        coordinator = fleet.coordinator_s_per_step
    cpu = {"coordinator": coordinator, "shards": found.server_cpu_s, "workers": found.client_cpu_s}
    return {
        "sweep": sweep,
        "workers": point.workers,
        "shards": point.shards,
        "parameters": point.parameters,
        "tensors": point.tensors,
        "seconds": round(found.seconds, 4),
        "cpu_s": {name: round(value, 5) for name, value in cpu.items()},
    }


def linearity(counts: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """(cost of one more, R^2) of a straight line through the points."""
    slope, start = np.polyfit(counts, costs, 1)
    left = np.asarray(costs) - (slope * np.asarray(counts) + start)
    total = np.asarray(costs) - np.mean(costs)
    return float(slope), float(1.0 - (left @ left) / (total @ total))


def of_workers(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How the servers' work grows with workers, and the coordinator's part of all work with most of them."""
    counts = [row["workers"] for row in rows]
    found: dict[str, float] = {}
    for role in ("shards", "coordinator"):
        slope, straight = linearity(counts, [row["cpu_s"][role] for row in rows])
        found |= {f"{role}_cpu_s_per_worker": float(f"{slope:.3g}"), f"{role}_r2": round(straight, 4)}
    most = rows[-1]
    share = most["cpu_s"]["coordinator"] / sum(most["cpu_s"].values())
    return {**found, f"coordinator_share_at_{most['workers']}": round(share, 4)}


def show(row: dict[str, Any]) -> None:
    cpu = "  ".join(f"{name} {1e3 * value:.1f}" for name, value in row["cpu_s"].items())
    print(
        f"{row['sweep']:>10}  {row['workers']:3} workers  {row['shards']} shards  {row['parameters']:>11,} "
        f"parameters  {row['tensors'] or '-':>6} tensors  {row['seconds']:8.3f} s   CPU-ms: {cpu}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=list(sweeps(is_full=True)))
    parser.add_argument("--full", action="store_true", help="up to 500 million parameters: 20 GB of memory")
    parser.add_argument("--steps", type=int, default=10, help="that are measured, of each point")
    given = parser.parse_args()
    rows = []
    for sweep, points in sweeps(given.full).items():
        for point in points if given.only in (None, sweep) else ():
            rows.append(row_of(sweep, point, given.steps))
            show(rows[-1])
    found: dict[str, Any] = {"bench": "scale", "cores": os.cpu_count(), "load": round(os.getloadavg()[1], 2)}
    by_workers = [row for row in rows if row["sweep"] == "workers"]
    if by_workers:
        found["workers"] = of_workers(by_workers)
    print(json.dumps({**found, "rows": rows}))


if __name__ == "__main__":
    main()
