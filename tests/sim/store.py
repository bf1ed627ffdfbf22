"""The checkpoint store of the simulation: parts by name, indices by reference. Parts may be damaged in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.records import Ledger

StoredPart = tuple[int, tuple[tuple[int, int], ...]]
"""(state, (version, weights) of older ones)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One checkpoint: what its index says."""

    files: tuple[str, ...]
    """Names of the parts, by shard."""
    ledger: Ledger


@dataclass(slots=True)
class SimStore:
    parts: dict[str, StoredPart] = field(default_factory=dict)
    """As they were stored."""
    kept: dict[m.CheckpointRef, Kept] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    """Parts in which a bit has flipped since."""

    def store_part(self, part: StoredPart) -> str:
        name = f"part-{len(self.parts)}"
        self.parts[name] = part
        return name

    def store_index(self, effect: e.StoreIndex) -> None:
        """Then the oldest of the lineage beyond what is kept goes."""
        lineage, ledger = effect.books.lineage, effect.books.ledger
        files = tuple(part.file for part in effect.parts)
        self.kept[m.CheckpointRef(lineage, ledger.version, effect.term)] = Kept(files, ledger)
        if effect.keep is None:
            return
        versions = sorted({ref.version for ref in self.kept if ref.lineage == lineage})
        for ref in [r for r in self.kept if r.lineage == lineage and r.version in versions[: -effect.keep]]:
            del self.kept[ref]

    def of(self, sources: tuple[tuple[str, int | None], ...]) -> list[m.CheckpointRef]:
        """Those of a history, newest first."""
        return [
            ref
            for lineage, newest in sources
            for ref in sorted(self.kept, key=lambda ref: (ref.version, ref.term), reverse=True)
            if ref.lineage == lineage and (newest is None or ref.version <= newest)
        ]

    def looked_at(self, effect: e.FindCheckpoint) -> Iterator[m.CheckpointRef]:
        """Those that will do if they verify, newest first."""
        return (ref for ref in self.of(effect.sources) if effect.version in (None, ref.version))

    def verifies(self, ref: m.CheckpointRef) -> bool:
        """Whether every part is there, and is what was stored: all of it is read."""
        return all(file in self.parts and file not in self.damaged for file in self.kept[ref].files)

    def read(self, ref: m.CheckpointRef, shard: int) -> StoredPart:
        """What is there now."""
        file = self.kept[ref].files[shard]
        state, older = self.parts[file]
        return (state ^ 1, older) if file in self.damaged else (state, older)

    def find(self, effect: e.FindCheckpoint, new_lineage: str) -> e.CheckpointFound:
        passed_over: list[str] = []
        versions = tuple(ref.version for ref in self.of(effect.sources))
        for ref in self.looked_at(effect):
            if not self.verifies(ref):
                passed_over.append(f"version {ref.version}")
                continue
            damaged, numerics = tuple(passed_over), "eager/cpu"
            ledger = self.kept[ref].ledger
            return e.CheckpointFound(ref, ledger, versions, new_lineage, damaged, numerics)
        return e.CheckpointFound(None, None, versions, new_lineage, tuple(passed_over))
