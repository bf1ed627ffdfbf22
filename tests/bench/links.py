"""A step over links of 1 and 10 Gb/s: all-reduce beside sheepfold, with as few and as many shards as workers.

    python -m tests.bench.links [--rates 1gbit 10gbit] [--workers 2 4] [--rounds 7]

Each worker and each shard is a machine of its own: a network namespace behind a link that lets so many bits
through in each direction. All share this machine's processors, so that where `ideal_s` is below what these
need for the step, it is they that are measured. Gradients and weights travel in bf16; level `checkpoint`;
compiled kernel on all sides. `ideal_s`: what the links alone take, by the formulas of `sheepfold plan`. The
systems of one table step in turns. Needs root. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.bench.kernel import MODELS
from tests.bench.step.__main__ import WARM_UP, measured, ratio
from tests.bench.step.given import Given
from tests.bench.step.machines import Machine, bits_per_second, in_machine, machines
from tests.bench.step.ours import SheepfoldRank
from tests.bench.step.peers import AllReduceOurs
from tests.bench.step.system import System

WIRE_BYTES = 2
"""Of a parameter in bf16."""
GLOO_PORT, COORDINATOR_PORT = 29_500, 7_070  # in namespaces of our own, where they are free


def labelled(system: str, workers: int, shards: int, delay: int) -> dict[str, Any]:
    named = {"system": system, "workers": workers, "shards": shards, "delay": delay}
    return {
        **named,
        "codec": "bf16",
        "transport": "gloo" if shards == 0 else "grpc",
        "durability": "checkpoint",
    }


class Spread(System):
    """Coordinator and shards on machines of their own, and workers on theirs."""

    def __init__(
        self, label: dict[str, Any], given: Given, ours: list[Machine], fleet: list[Machine], port: int
    ) -> None:
        """`fleet`: the coordinator's machine, then the shards'."""
        with ExitStack() as stack:
            self._servers_running = stack.enter_context(roles(label["shards"], fleet, port))
            told = [f"{fleet[0].address}:{port}", "bf16", "checkpoint", "grpc", label["delay"]]
            names = [machine.name for machine in ours]
            super().__init__(label, given, in_machine, [names, SheepfoldRank, *told])
            self._open = stack.pop_all()

    def server_pids(self) -> list[int]:
        return [process.pid for process in self._servers_running]

    def close(self) -> None:
        super().close()
        self._open.close()


@contextmanager
def roles(shards: int, fleet: list[Machine], port: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A coordinator and shards, in plain text: nobody else is on these links."""
    where = f"{fleet[0].address}:{port}"
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "sheepfold_server"]
        counted = ["--shards", str(shards), "--insecure"]
        commands = [
            fleet[0].command(*program, "coordinator", *counted, "--listen", where, "--checkpoints", folder)
        ]
        for number, machine in enumerate(fleet[1 : shards + 1]):
            listen = ["--index", str(number), "--coordinator", where, "--listen", f"{machine.address}:0"]
            commands.append(machine.command(*program, "shard", *counted, *listen))
        with (Path(folder) / "servers.log").open("wb") as written:
            running = [subprocess.Popen(command, stdout=written, stderr=written) for command in commands]
        try:
            yield running
        finally:
            for process in reversed(running):
                process.terminate()
            for process in running:
                process.wait(30)


def ideal_seconds(given: Given, label: dict[str, Any], rate: str) -> float:
    """Links alone: the slowest moves its bytes, up and then down; with delay both at once."""
    per_second, workers, shards = bits_per_second(rate) / 8, label["workers"], label["shards"]
    bytes_each_way = given.elements * WIRE_BYTES
    if shards == 0:
        return 2 * (workers - 1) / workers * bytes_each_way / per_second
    slowest = max(1.0, workers / shards) * bytes_each_way / per_second
    return slowest if label["delay"] else 2 * slowest


def table(given: Given, rate: str, workers: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All systems of one rate and number of workers, in turns."""
    shards = sorted({1, workers, *([2 * workers] if options.double else [])})
    entries: list[System] = []
    with machines(workers + 1 + max(shards), rate) as made:
        ours, fleet = made[:workers], made[workers:]
        try:
            named = labelled("allreduce_ours", workers, 0, 0)
            told = [
                [machine.name for machine in ours],
                AllReduceOurs,
                f"{ours[0].address}:{GLOO_PORT}",
                "bf16",
            ]
            entries.append(System(named, given, in_machine, told))
            for number, count in enumerate(shards):
                for delay in (0, 1):
                    named = labelled("sheepfold", workers, count, delay)
                    port = COORDINATOR_PORT + 2 * number + delay
                    entries.append(Spread(named, given, ours, fleet, port))
            for entry in entries:
                for _ in range(WARM_UP):
                    entry.step()
            rows = measured(entries, options.rounds)
        finally:
            for entry in entries:
                entry.close()
    for row in rows:
        row |= {
            "rate": rate,
            "ideal_s": round(ideal_seconds(given, row, rate), 4),
            "faster": ratio(row, rows[0]),
        }
        show(row)
    return rows


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['rate']:>7}  {row['system']:>15}  {row['workers']} workers  {row['shards'] or '-'} shards  "
        f"delay {row['delay']}  {row['median_s']:7.3f} s  p95 {row['p95_s']:7.3f}  "
        f"links alone {row['ideal_s']:6.3f}  cpu {row['cpu_s']:5.2f}  {row['faster']:5.2f}x of all-reduce",
        flush=True,
    )


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--model", choices=MODELS, default="bert_small_11m")
    parser.add_argument("--rates", nargs="+", default=["1gbit", "10gbit"])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--double", action="store_true", help="also with twice as many shards as workers")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    given, rows = Given(options.model), []
    for rate in options.rates:
        for workers in options.workers:
            rows += table(given, rate, workers, options)
    kept = ("system", "rate", "workers", "shards", "delay", "median_s", "p95_s", "ideal_s", "cpu_s", "faster")
    found = {"bench": "links", "model": options.model, "cores": os.cpu_count()}
    print(json.dumps({**found, "rows": [{name: row[name] for name in kept} for row in rows]}))


if __name__ == "__main__":
    main()
