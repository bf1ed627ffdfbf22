"""Seconds, CPU-seconds, wire bytes and memory of one synchronous step, by system, in turns.

    make bench-step    or    python -m tests.bench.step [--model bert_base_109m] [--workers 1 2 4]

A step: each of n workers gives its gradient; the mean of all makes one LAMB step; all n hold the new weights.
Systems of one n are alive together and step in turns, each round in another order. One thread per process.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tests.bench.kernel import MODELS
from tests.bench.step.ceilings import ceilings
from tests.bench.step.given import Flat, Given, oracle
from tests.bench.step.ours import Sheepfold
from tests.bench.step.peers import AllReduceOurs, AllReduceTimm, ReduceBroadcast, TorchRpc
from tests.bench.step.ray_peer import RaySystem
from tests.bench.step.system import MakeRank, System, cpu_seconds, peak_mb, wire_bytes

WARM_UP = 5
Make = Callable[[], System]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def label(system: str, workers: int, shards: int, codec: str, transport: str, level: str) -> dict[str, Any]:
    return {
        "system": system,
        "workers": workers,
        "shards": shards,
        "codec": codec,
        "transport": transport,
        "durability": level,
    }


def ours(given: Given, named: dict[str, Any], folder: str | None) -> Make:
    return lambda: Sheepfold(named, given, folder)


def peer(given: Given, name: str, make: MakeRank, workers: int, codec: str) -> Make:
    transport = "tensorpipe" if make is TorchRpc else "gloo"
    named = label(name, workers, 0, codec, transport, "none")
    extra = 1 if make is TorchRpc else 0  # the server, which is a rank of torch RPC's
    return lambda: System(named, given, make, [f"127.0.0.1:{free_port()}", codec], extra)


def ray_actors(given: Given, workers: int, codec: str) -> Make:
    named = label("ray", workers, 0, codec, "shared", "none")
    return lambda: RaySystem(named, given)


def chosen(names: list[str]) -> list[str]:
    """Without Ray, which is not part of an installation for development, if it is not there."""
    if "ray" in names and find_spec("ray") is None:
        print("ray is left out: pip install -c constraints.txt ray", file=sys.stderr)
        return [name for name in names if name != "ray"]
    return names


def groups(peers: list[str]) -> list[list[str]]:
    """Ray's own processes are never idle: it is timed beside all-reduce alone, and nobody beside it."""
    others = [name for name in peers if name != "ray"]
    return [others, ["allreduce_ours", "ray"]] if "ray" in peers else [others]


SETTLING = 50
"""Steps of a log until its files are used again: pages that are new cost several times as much."""


def systems(given: Given, workers: int, codec: str, options: argparse.Namespace) -> Iterator[Make]:
    """Those of one table: one n, one codec; peers have none of one byte, and send bf16 beside int8."""
    for shards in () if "ray" in options.peers else options.shards:
        for level in options.levels:
            for transport in options.transports:
                named = label("sheepfold", workers, shards, codec, transport, level)
                yield ours(given, named, options.dir)
    peers: dict[str, MakeRank] = {
        "allreduce_timm": AllReduceTimm,
        "allreduce_ours": AllReduceOurs,
        "reduce_broadcast": ReduceBroadcast,
        "torch_rpc": TorchRpc,
    }
    for name, make in peers.items():
        if name in options.peers:
            yield peer(given, name, make, workers, "bf16" if codec == "int8" else codec)
    if "ray" in options.peers:
        yield ray_actors(given, workers, "bf16" if codec == "int8" else codec)


def measured(entries: list[System], rounds: int) -> list[dict[str, Any]]:
    """One row for each; all are warm."""
    seconds: list[list[float]] = [[] for _ in entries]
    costs, moved = [0.0] * len(entries), [0] * len(entries)
    pids = [entry.worker_pids() + entry.server_pids() for entry in entries]
    for number in range(rounds):
        turn = number % len(entries)
        for at in [*range(turn, len(entries)), *range(turn)]:
            cost, bytes_before, began = cpu_seconds(pids[at]), wire_bytes(), time.perf_counter()
            entries[at].step()
            seconds[at].append(time.perf_counter() - began)
            time.sleep(0.05)  # a log may still be written, a copy freed: it is this system's cost
            costs[at] += cpu_seconds(pids[at]) - cost
            moved[at] += wire_bytes() - bytes_before
    return [
        {
            **entry.label,
            "median_s": round(median(seconds[at]), 4),
            "p95_s": round(sorted(seconds[at])[int(0.95 * (rounds - 1))], 4),
            "cpu_s": round(costs[at] / rounds, 3),
            "wire_bytes": moved[at] // rounds,
            "rss_worker": round(peak_mb(entry.worker_pids()), 1),
            "rss_shard": round(peak_mb(entry.server_pids()), 1),
            "seconds": [round(each, 4) for each in seconds[at]],
        }
        for at, entry in enumerate(entries)
    ]


def table(given: Given, workers: int, codec: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All systems of one table, started, warmed up, compared with the oracle, timed and closed."""
    entries: list[System] = []
    exact = oracle(given, workers, WARM_UP) if options.oracle else None
    try:
        for make in systems(given, workers, codec, options):
            entries.append(make())
            for _ in range(WARM_UP):
                entries[-1].step()
        errors = [None if exact is None else error(entry, exact) for entry in entries]
        for entry in [entry for entry in entries if entry.label["durability"] == "wal"]:
            for _ in range(SETTLING):
                entry.step()
        rows = measured(entries, options.rounds)
    finally:
        for entry in entries:
            entry.close()
    base = next((x for x in rows if x["system"] == "allreduce_ours"), None)
    for row, found in zip(rows, errors, strict=True):
        row["max_error"] = found
        row["faster"] = None if base is None else ratio(row, base)
        show(row, base or row)
    return rows


def error(entry: System, exact: Flat) -> float:
    """max |w - oracle| once it is warm."""
    with tempfile.TemporaryDirectory() as folder:
        return float(f"{np.abs(entry.weights(Path(folder)) - exact).max():.3g}")


def ratio(row: dict[str, Any], base: dict[str, Any]) -> float:
    """Median over rounds of base / row: how many times faster."""
    return round(median(b / a for a, b in zip(row["seconds"], base["seconds"], strict=True)), 3)


def show(row: dict[str, Any], base: dict[str, Any]) -> None:
    names = ("system", "workers", "shards", "codec", "transport", "durability")
    widths = (16, 1, 1, 4, 6, 10)
    text = "  ".join(f"{row[name]!s:>{width}}" for name, width in zip(names, widths, strict=True))
    print(
        f"{text}  {row['median_s']:7.3f} s  p95 {row['p95_s']:7.3f}  cpu {row['cpu_s']:6.2f}  "
        f"{row['wire_bytes'] / 1e6:8.1f} MB  "
        f"worker {row['rss_worker']:6.0f}  shard {row['rss_shard']:6.0f} MiB  "
        f"error {row['max_error']}  {ratio(row, base):5.2f}x of {base['system']}",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--model", choices=MODELS, default="bert_small_11m")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--codecs", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--transports", nargs="+", choices=["grpc", "shared"], default=["grpc", "shared"])
    levels = ["checkpoint", "wal"]
    parser.add_argument("--levels", choices=levels, nargs="+", default=levels, help="durability.level")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dir", help="where the servers keep their logs; by default the temporary directory")
    parser.add_argument("--no-oracle", dest="oracle", action="store_false", help="do not compare the weights")
    names = ["allreduce_timm", "allreduce_ours", "reduce_broadcast", "torch_rpc", "ray"]
    parser.add_argument("--peers", nargs="*", choices=names, default=names)
    options = parser.parse_args()
    options.peers = chosen(options.peers)
    os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    given, rows = Given(options.model), []
    for workers in options.workers:
        for codec in options.codecs:
            for peers in groups(options.peers):
                rows += table(given, workers, codec, argparse.Namespace(**{**vars(options), "peers": peers}))
    for row in rows:
        del row["seconds"]
    found = {"bench": "step", "model": options.model, "cores": os.cpu_count(), "rows": rows}
    print(json.dumps({**found, "ceilings": ceilings(4 * given.elements)}))


if __name__ == "__main__":
    main()
