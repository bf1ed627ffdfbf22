"""Replay one seed with its trace: python -m tests.sim.replay SEED"""

from __future__ import annotations

import sys

from tests.sim import invariants
from tests.sim.scenario import draw
from tests.sim.world import World, undisturbed_state


def main(seed: int) -> int:
    world = World(draw(seed))
    world.lines = []
    print(world.scenario)
    try:
        world.run()
        if world.scenario.setting.is_reproducible:
            invariants.same_history(world, undisturbed_state(world.scenario.setting))
    except BaseException:
        print("\n".join(world.lines))
        raise
    print("\n".join(world.lines))
    print(f"ended at {world.now:.2f} s, version {world.state.version}; marks: {dict(world.marks)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
