"""Steps per second while workers die, beside those while none does: sheepfold and peers, in turns.

    make bench-goodput    or    python -m tests.bench.goodput [--mtbf-steps 10] [--torchft PYTHON]

A step is of a constant global batch: two slots for each of `--workers`, whose gradients take `--compute`
seconds and no processor. In each round every system is started anew, warms up, is timed while nobody dies,
and then while workers die by SIGKILL: at the same seconds for all systems, drawn from a seed, one of all
workers every `--mtbf-steps` steps on average, a step being the time that its slots take to compute. Dead
workers are replaced at once. Servers, torchrun's agent and torchft's lighthouse live on.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.goodput.account import Account, Kill, Told, account, kills, quantile
from tests.bench.goodput.ours import Sheepfold, job_of
from tests.bench.goodput.peers import Patience, Torchft, Torchrun, torchft_of
from tests.bench.goodput.system import Make, System, import_seconds
from tests.bench.goodput.training import SLOTS_PER_WORKER

LOOK_SECONDS = 0.02
WARM_UP = 3
START_SECONDS, STALL_SECONDS = 120.0, 60.0


@dataclass(frozen=True)
class Entry:
    """A system, by what its row says of it."""

    label: dict[str, Any]
    make: Make


def entries(given: argparse.Namespace) -> Iterator[Entry]:
    workers, compute, step_seconds = given.workers, given.compute, SLOTS_PER_WORKER * given.compute
    job = job_of(workers, given.straggler_factor)
    for spare in (given.spare, 0):
        label = {"system": "sheepfold", "workers": workers, "spare": spare, "saves": "wal"}
        yield Entry(label, partial(Sheepfold, job=job, workers=workers + spare, compute_seconds=compute))
    for every in given.save_every:
        label = {"system": "torchrun", "workers": workers, "spare": 0, "saves": f"every {every}"}
        yield Entry(label, partial(Torchrun, workers=workers, compute_seconds=compute, save_every=every))
    if given.torchft and torchft_of(given.torchft):
        patience = Patience(
            given.join_seconds, given.heartbeat_seconds, given.collective_steps * step_seconds
        )
        for spare in (given.spare, 0):
            label = {"system": "torchft", "workers": workers, "spare": spare, "saves": "nothing"}
            made = partial(Torchft, python=given.torchft, workers=workers, spare=spare, patience=patience)
            yield Entry(label, partial(made, compute_seconds=compute))


def following(system: System, steps: int, patience: float) -> Told:
    """The last of so many further completed steps, to which all workers gave."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        for each in system.told():
            steps -= each.is_counted and each.share >= 1.0
            if steps <= 0:
                return each
        time.sleep(LOOK_SECONDS)
    raise SystemExit(f"{type(system).__name__}: no step within {patience:.0f} s")


def window(system: System, seconds: float, due: list[Kill]) -> tuple[Account, int]:
    """From a completed step to the first new one after so many seconds; and how many kills met nobody."""
    began = following(system, WARM_UP, START_SECONDS)
    waiting, told, killed, missed = list(due), list[Told](), list[float](), 0
    ended, highest = None, began.step
    while ended is None:
        time.sleep(LOOK_SECONDS)
        now = time.monotonic()
        while waiting and began.at + waiting[0].at <= now:
            if system.kill(waiting.pop(0).victim):
                killed.append(now)
            else:
                missed += 1
        for each in system.told():
            told.append(each)
            if each.is_counted and each.step > highest:
                highest = each.step
                if each.at > began.at + seconds and not waiting:
                    ended = each.at
                    break
        if now > began.at + seconds + STALL_SECONDS:
            ended = now
    return account(began, told, killed, ended), missed


@dataclass
class Found:
    """Of one system: calm, and a storm for each mean time between failures."""

    calm: Account
    storms: dict[float, Account]
    missed: dict[float, int]


def turn(entry: Entry, found: Found, number: int, given: argparse.Namespace) -> None:
    """One system, from its start to its end."""
    step_seconds = SLOTS_PER_WORKER * given.compute
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        system = entry.make(Path(folder))
        try:
            calm, _ = window(system, given.calm_seconds, [])
            found.calm += calm
            for mtbf in given.mtbf_steps:
                due = kills(given.seed + number, mtbf * step_seconds, given.seconds)
                storm, missed = window(system, given.seconds, due)
                found.storms[mtbf] += storm
                found.missed[mtbf] += missed
                show(entry, mtbf, calm, storm)
        finally:
            system.close()


def show(entry: Entry, mtbf: float, calm: Account, storm: Account) -> None:
    print(
        f"{entry.label['system']:>10} {entry.label['saves']:>8} spare {entry.label['spare']}  mtbf {mtbf:g}  "
        f"calm {calm.steps_per_second:.3f}  storm {storm.steps_per_second:.3f} /s in {storm.seconds:.0f} s  "
        f"kills {len(storm.recoveries)}  lost {storm.repeated:g} + {storm.discarded:.2f}  "
        f"recoveries {' '.join(f'{each:.1f}' for each in storm.recoveries)}",
        file=sys.stderr,
        flush=True,
    )


def row(entry: Entry, found: Found, mtbf: float) -> dict[str, Any]:
    storm, calm = found.storms[mtbf], found.calm
    return {
        **entry.label,
        "mtbf_steps": mtbf,
        "steps_per_s": round(storm.steps_per_second, 4),
        "steps_per_s_calm": round(calm.steps_per_second, 4),
        "goodput": round(storm.steps_per_second / calm.steps_per_second, 4),
        "kills": len(storm.recoveries),
        "kills_missed": found.missed[mtbf],
        "useful_steps": round(storm.useful, 2),
        "lost_steps": round(storm.repeated + storm.discarded, 2),
        "seconds": round(storm.seconds, 1),
        "recovery_s": {
            name: None if (value := quantile(storm.recoveries, share)) is None else round(value, 2)
            for name, share in (("p50", 0.5), ("p95", 0.95))
        },
    }


def options() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--mtbf-steps", type=float, nargs="+", default=[10.0], help="over all workers")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--spare", type=int, default=1, help="of sheepfold and torchft, beside rows without")
    parser.add_argument("--straggler-factor", type=float, default=3.0, help="leases.straggler_factor")
    parser.add_argument("--compute", type=float, default=0.5, help="seconds of a slot's gradient")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a window in which workers die")
    parser.add_argument("--calm-seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", help="where all systems store; by default the temporary directory")
    parser.add_argument(
        "--save-every", type=int, nargs="*", default=[1, 10], help="steps, of torchrun's rows"
    )
    parser.add_argument(
        "--torchft", metavar="PYTHON", help="an interpreter that has torchft, to measure it too"
    )
    parser.add_argument("--join-seconds", type=float, default=10.0, help="torchft's --join_timeout_ms")
    parser.add_argument(
        "--heartbeat-seconds", type=float, default=1.0, help="torchft's --heartbeat_timeout_ms"
    )
    parser.add_argument("--collective-steps", type=float, default=1.5, help="torchft's timeout, in steps")
    parser.add_argument("--only", nargs="*", default=["sheepfold", "torchrun", "torchft"])
    return parser


def main() -> None:
    given = options().parse_args()
    systems = [each for each in entries(given) if each.label["system"] in given.only]
    nothing = Account()
    found = [
        Found(nothing, dict.fromkeys(given.mtbf_steps, nothing), dict.fromkeys(given.mtbf_steps, 0))
        for _ in systems
    ]
    loads, imports = [os.getloadavg()[0]], {1: list[float](), given.workers: list[float]()}
    for number in range(given.rounds):
        first = number % len(systems)
        for at in [*range(first, len(systems)), *range(first)]:
            turn(systems[at], found[at], number, given)
            loads.append(os.getloadavg()[0])
        for count, seconds in imports.items():
            seconds.append(import_seconds(count))
    versions = torchft_of(given.torchft) if given.torchft else None
    told = {
        "bench": "goodput",
        "compute_s": given.compute,
        "step_s": SLOTS_PER_WORKER * given.compute,
        "straggler_factor": given.straggler_factor,
        "seed": given.seed,
        "rounds": given.rounds,
        "torchft": versions,
        "torchft_patience_s": {
            "join": given.join_seconds,
            "heartbeat": given.heartbeat_seconds,
            "collective": given.collective_steps * SLOTS_PER_WORKER * given.compute,
        },
        "import_s": {count: round(median(seconds), 2) for count, seconds in imports.items()},
        "load": {"least": round(min(loads), 1), "most": round(max(loads), 1)},
        "rows": [
            row(each, of, mtbf) for mtbf in given.mtbf_steps for each, of in zip(systems, found, strict=True)
        ],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
