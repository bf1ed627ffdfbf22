"""A campaign of the simulation: python -m tests.sim.campaign [--seeds N] [--first N] [--processes N]

Every seed draws its job, fleet and faults; every ablation must be caught. Prints violations with the command
that replays them, for the lowest seeds also as a smaller case, and one line of JSON last. Exit code 1 if a
seed fails, a mark is not hit or an ablation is not noticed.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.faults.results import record
from tests.sim.ablations import ABLATIONS, RARE
from tests.sim.invariants import Violation
from tests.sim.marks import MARKS
from tests.sim.shrinking import shrunk
from tests.sim.world import simulate

CHUNK = 50
ABLATION_SEEDS = 3000
SAY_SECONDS = 10.0
SHRUNK_SEEDS = 4


@dataclass(slots=True)
class Found:
    """What some seeds came to."""

    marks: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    violations: dict[int, str] = field(default_factory=dict)


def run_seeds(seeds: tuple[int, int]) -> Found:
    found = Found()
    for seed in range(*seeds):
        try:
            marks = simulate(seed)
        except Exception as error:
            found.violations[seed] = f"{type(error).__name__}: {error}"
            continue
        found.marks.update(marks)
        found.faults += marks.faults
    return found


def first_seed_that_notices(name: str) -> tuple[str, int | None]:
    cores, due = ABLATIONS[name]
    first = RARE.get(name, 0)
    for seed in range(first, first + ABLATION_SEEDS):
        try:
            simulate(seed, cores)
        except Violation as violation:
            if violation.name in due:
                return name, seed
    return name, None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="add the result to tests/faults/RESULTS.md")
    given = parser.parse_args()
    end = given.first + given.seeds
    chunks = [(first, min(first + CHUNK, end)) for first in range(given.first, end, CHUNK)]
    total, done, began = Found(), 0, time.monotonic()
    said = began
    # What is imported stays: to look through it for garbage again and again takes a tenth of the time.
    with get_context("spawn").Pool(given.processes, gc.freeze) as pool:
        for found in pool.imap_unordered(run_seeds, chunks):
            total.marks.update(found.marks)
            total.faults += found.faults
            total.violations |= found.violations
            done += CHUNK
            for seed, text in found.violations.items():
                print(f"seed {seed}: {text}\nreplay: python -m tests.sim.replay {seed}", flush=True)
            if time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                print(
                    f"{min(done, given.seeds):,} of {given.seeds:,} seeds, {said - began:.0f} s", flush=True
                )
        failed = sorted(total.violations)[:SHRUNK_SEEDS]
        for seed, case in zip(failed, pool.imap(shrunk, failed), strict=True):
            print(f"seed {seed}, made smaller: {case.command()}", flush=True)
        caught = dict(pool.imap_unordered(first_seed_that_notices, sorted(ABLATIONS)))
    for name, noticed_at in sorted(caught.items()):
        told = "NOT NOTICED" if noticed_at is None else f"noticed at seed {noticed_at}"
        print(f"without a safeguard, {name}: {told}")
    unhit = [mark for mark in MARKS if not total.marks[mark]]
    line = {
        "bench": "sim",
        "seeds": given.seeds,
        "first": given.first,
        "seconds": round(time.monotonic() - began, 1),
        "faults": total.faults,
        "violations": len(total.violations),
        "marks": len(MARKS),
        "marks_unhit": unhit,
        "ablations_caught": sum(seed is not None for seed in caught.values()),
        "ablations": len(ABLATIONS),
    }
    is_red = bool(total.violations or unhit or None in caught.values())
    if given.record:
        record(line, not is_red)
    print(json.dumps(line))
    return int(is_red)


if __name__ == "__main__":
    sys.exit(main())
