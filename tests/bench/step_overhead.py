"""What a step costs besides its arithmetic: an empty model, one worker, real processes on loopback.

    python tests/bench/step_overhead.py [--shards 2] [--steps 300]

Prints a table of hops and last one JSON line. The model has one parameter of one element; K = 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import numpy as np

import sheepfold
from sheepfold_wire.job import Job, parse_job

START_SECONDS = 60.0


def empty_job(steps: int) -> Job:
    return parse_job(
        {
            "name": "empty",
            "batch": {"samples": 1, "slot_samples": 1},
            "data": {"samples": 1},
            "optimizer": {"lr": {"peak": 0.01}},
            "stop": {"steps": steps},
            "wire": {"up": "fp32"},
        }
    )


def start_servers(shards: int, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """`sheepfold up` on free ports; returns it and the coordinator's address."""
    command = [sys.executable, "-m", "sheepfold_server", "up", "--shards", str(shards), "--dir", str(folder)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--dashboard-port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        known = folder / "up.json"
        if known.exists():
            return process, str(json.loads(known.read_text())["coordinator"]["address"])
        time.sleep(0.05)
    process.terminate()
    raise SystemExit(f"the servers did not start within {START_SECONDS:.0f} s; see {folder}/logs")


def timed_steps(address: str, steps: int) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of each step, and of its three waits as the worker sees them."""
    waits: dict[str, list[float]] = {"lease and pull": [], "push": []}
    whole = []
    with sheepfold.Client(
        "empty", {"w": np.ones(1, np.float32)}, address=address, config=empty_job(steps)
    ) as client:
        began = time.perf_counter()
        while (client.lease()) is not None:
            leased = time.perf_counter()
            client.push({"w": np.ones(1, np.float32)})
            pushed = time.perf_counter()
            waits["lease and pull"].append(leased - began)
            waits["push"].append(pushed - leased)
            whole.append(pushed - began)
            began = pushed
    return whole, waits


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """(p50, p95) in milliseconds."""
    return 1e3 * median(seconds), 1e3 * quantiles(seconds, n=20)[18]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        servers, address = start_servers(options.shards, Path(folder))
        try:
            whole, waits = timed_steps(address, options.steps)
        finally:
            servers.terminate()
            servers.wait(30)
    warm = len(whole) // 10
    for name, seconds in {**waits, "whole step": whole}.items():
        p50, p95 = percentiles(seconds[warm:])
        print(f"{name:16} p50 {p50:7.2f} ms   p95 {p95:7.2f} ms")
    p50, p95 = percentiles(whole[warm:])
    row = {
        "bench": "step_overhead",
        "shards": options.shards,
        "steps": len(whole) - warm,
        "p50_ms": round(p50, 3),
    }
    print(json.dumps({**row, "p95_ms": round(p95, 3), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
