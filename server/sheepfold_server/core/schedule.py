"""Configuration as a function of the step."""

from __future__ import annotations

from typing import Any

from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import Job


class ConfigHistory:
    """Which configuration was in force at which step; replay asks the same question."""

    def __init__(self, job: Job) -> None:
        self.created = job
        """As it was when the job was created, whatever changed since."""
        self._changes: list[tuple[int, Job]] = [(0, job)]

    @property
    def newest(self) -> Job:
        return self._changes[-1][1]

    def at(self, step: int) -> Job:
        """The configuration in force at `step`."""
        for first, job in reversed(self._changes):
            if first <= step:
                return job
        return self._changes[0][1]

    def change(self, from_step: int, changes: dict[str, Any]) -> Job:
        """Replace live keys from `from_step` on; raises BadConfig and changes nothing if that is refused."""
        newest_from = self._changes[-1][0]
        if from_step < newest_from:
            raise BadConfig(
                f"from_step = {from_step}: a change from step {newest_from} on is set already; "
                f"give a step from {newest_from} on"
            )
        changed = self.newest.changed(changes)
        self._changes.append((from_step, changed))
        return changed
