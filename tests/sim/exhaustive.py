"""Every pair of one fault of a message and one crash, in a small job: python -m tests.sim.exhaustive

Two shards, two slots, two steps, one or two workers. Enumerated: every request, reply or body of the run
without a crash x (lost, or the request there twice, or the body broken off), alone and together with every
kill -9 of the coordinator or a shard just before any effect it was about to carry out, early or late, until
the run has no later effect. Not enumerated: latencies, so the order of events is the one that one seed gives;
deaths of workers; two crashes; kinds of faults that no message has.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from itertools import count
from multiprocessing import get_context

from tests.faults.results import record
from tests.sim.invariants import Violation
from tests.sim.scenario import Faults, Scenario, Setting
from tests.sim.world import Cores, World, check

OF_MESSAGES = ("lose_request", "lose_reply", "duplicate", "break_push")
WORKERS = (1, 2)
SMALL = Setting("sync", 2, 2, "", "samples", "skip")
NEVER = 1e-12
"""Chance of what is in the scenario, and strikes where it is told to alone."""
FAULTS = Faults(NEVER, NEVER, NEVER, break_push=NEVER, crash=NEVER)


def world_of(workers: int, faults: frozenset[str], cores: Cores | None = None) -> World:
    scenario = Scenario(workers, SMALL, 2, (2, 2), workers, False, FAULTS, fault_seconds=1e6)
    return World(scenario, cores, keep=faults)


def each(kind: str, workers: int, beside: str = "", cores: Cores | None = None) -> Iterator[str]:
    """Run with each fault of a kind, alone or beside another, until none is left; raises Violation."""
    for place in count():
        fault = f"{kind}:{place}"
        faults = frozenset({fault, beside} - {""})
        world = world_of(workers, faults, cores)
        try:
            check(world)
        except Violation as violation:
            text = f"{workers} workers, {' and '.join(sorted(faults))}: {violation}"
            raise Violation(violation.name, text) from violation
        if fault not in world.strikes.struck:
            return
        yield fault


def crashes_beside(given: tuple[int, str]) -> int:
    """How many crashes there are beside a fault of a message, after all were run."""
    workers, fault = given
    return sum(1 for _ in each("crash", workers, fault))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="add the result to tests/faults/RESULTS.md")
    given = parser.parse_args()
    began = time.monotonic()
    messages = [(w, fault) for w in WORKERS for kind in OF_MESSAGES for fault in each(kind, w)]
    alone = [(w, "") for w in WORKERS]
    with get_context("spawn").Pool(given.processes, gc.freeze) as pool:
        crashes = pool.map(crashes_beside, alone + messages, chunksize=4)
    line = {
        "bench": "sim exhaustive",
        "faults_of_messages": len(messages),
        "crashes": sum(crashes[: len(alone)]),
        "pairs": sum(crashes[len(alone) :]),
        "schedules": len(messages) + sum(crashes),
        "seconds": round(time.monotonic() - began, 1),
    }
    if given.record:
        record(line, True)  # a violation would have ended it
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
