"""Safeguards of checkpoints and of going back to one, taken away: as in `ablations`."""

from __future__ import annotations

from dataclasses import replace

from tests.sim.store import SimStore

import sheepfold_wire.messages as m
from sheepfold.session import Session
from sheepfold_server.core import events as e
from sheepfold_server.core.checkpointing import Checkpointing
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.rewinding import Rewinding
from sheepfold_server.core.shard import Shard
from sheepfold_server.core.steps import Phase


class CutsAnywhere(Checkpointing):
    """A checkpoint begins while a step is being applied."""

    def consider(self) -> None:
        steps = self._s.steps
        if self._save is not None or any(step.phase is Phase.APPLYING for step in steps.values()):
            self._s.steps = {}
            super().consider()
            self._s.steps = steps


class StoresWhatever(Shard):
    """A shard stores what it holds, whichever version was asked for."""

    def _on_save(self, version: int) -> None:
        self._out.append(e.StorePart(version))


class StoresOneVersion(Shard):
    """The versions that gradients are computed at yet are not stored."""

    def _on_save(self, version: int) -> None:
        super()._on_save(version)
        self._out[:] = [e.StorePart(f.version) if isinstance(f, e.StorePart) else f for f in self._out]


class GoesBackUnwritten(Rewinding):
    """Another coordinator begins before the books of the new lineage are in the log."""

    def on_found(self, event: e.CheckpointFound) -> None:
        super().on_found(event)
        self.on_persisted(self._record)


class DecidesOn(Rewinding):
    """A coordinator that has written that its history ended goes on deciding."""

    @property
    def is_over(self) -> bool:
        return False


class ForgetsReturned(Granting):
    """Samples that were leased and not committed are not in the books."""

    def accounts(self) -> tuple[int, tuple[int, ...]]:
        return self._sequence, ()


class KeepsLease(Session):
    """A worker goes on with the lease of a lineage that has ended."""

    def _went_back(self) -> None:
        pass


class StoresIndexFirst(Checkpointing):
    """The index is stored once the first part is, and names the others before they are there."""

    def on_part(self, shard: int, report: m.PartSaved) -> None:
        save = self._save
        if save is not None and report.version == save.books.ledger.version and not save.parts:
            due = replace(report, file="not yet", why="")
            save.parts = {other: due for other in range(len(self._s.shards)) if other != shard}
        super().on_part(shard, report)


class TrustsParts(SimStore):
    """A part is taken as it is read. The shell's part of it: `CheckpointStore.verify`."""

    def verifies(self, ref: m.CheckpointRef) -> bool:
        return True
