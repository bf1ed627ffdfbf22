"""How version 0 comes about: uploaded by the holder of the init lease, loaded on every shard."""

from __future__ import annotations

from sheepfold_server.core.state import JobState, Life
from sheepfold_wire.ids import NOTHING_LOADED


class Initialising:
    """Counts the shards that have loaded the initial weights, and the uploads that were refused."""

    def __init__(self, state: JobState) -> None:
        self._s = state
        self._loaded: set[int] = set()
        self._refused = 0

    def refuse(self, why: str) -> None:
        """An upload must not count; too many of them pause the job."""
        self._refused += 1
        if self._refused % self._s.job.leases.attempts_max == 0:
            self._s.pause(f"the initial weights were refused {self._refused} times, last: {why}")

    def load(self, shard: int) -> bool:
        """A shard has loaded them; whether version 0 is there by that."""
        state = self._s
        self._loaded.add(shard)
        if len(self._loaded) < len(state.shards) or state.version > NOTHING_LOADED:
            return False
        for attempt in state.attempts:
            if attempt.is_init:
                state.attempts.commit(attempt, is_skip=False)
        state.version = 0
        if state.life is Life.INITIALISING:
            state.life, state.why = Life.RUNNING, ""
        state.last_commits.append((state.now, 0))
        state.event("state", f"version 0 is loaded on {len(state.shards)} shards")
        return True
