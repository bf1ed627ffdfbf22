"""Replay one seed with its trace: python -m tests.sim.replay SEED

--shrink looks for a small case that fails in the same way, and prints the command that replays it: the other
options, which make the fleet and the job smaller and name the faults to keep.
"""

from __future__ import annotations

import argparse
import sys

from tests.sim.ablations import ABLATIONS
from tests.sim.shrinking import NO_FAULT, Case, shrunk
from tests.sim.world import check


def faults_of(text: str) -> frozenset[str]:
    return frozenset() if text == NO_FAULT else frozenset(text.split(","))


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("seed", type=int)
    parser.add_argument("--shrink", action="store_true")
    for name in ("steps", "slots", "shards", "workers"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--seconds", type=float, help="how long faults strike, in simulated time")
    parser.add_argument("--keep", type=faults_of, help=f"the only faults to strike, or {NO_FAULT!r}")
    parser.add_argument("--without", default="", choices=sorted(ABLATIONS), help="a safeguard")
    given = parser.parse_args(words)
    cores = ABLATIONS[given.without][0] if given.without else None
    if given.shrink:
        print(shrunk(given.seed, cores).command(given.without))
        return 0
    case = Case(given.seed, given.keep, given.steps, given.slots, given.shards, given.workers, given.seconds)
    world = case.world(cores)
    world.lines = []
    print(world.scenario)
    try:
        check(world)
    finally:
        print("\n".join(world.lines))
    print(f"ended at {world.now:.2f} s, version {world.state.version}; marks: {dict(world.marks)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
