"""The checkpoint store of the simulation: parts by name, indices by reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.records import Ledger

StoredPart = tuple[int, tuple[tuple[int, int], ...]]
"""(state, (version, weights) of older ones)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One checkpoint."""

    parts: tuple[StoredPart, ...]
    ledger: Ledger


@dataclass(slots=True)
class SimStore:
    parts: dict[str, StoredPart] = field(default_factory=dict)
    kept: dict[m.CheckpointRef, Kept] = field(default_factory=dict)

    def store_part(self, part: StoredPart) -> str:
        name = f"part-{len(self.parts)}"
        self.parts[name] = part
        return name

    def store_index(self, effect: e.StoreIndex) -> None:
        """Then the oldest of the lineage beyond what is kept goes."""
        lineage, ledger = effect.books.lineage, effect.books.ledger
        parts = tuple(self.parts[part.file] for part in effect.parts)
        self.kept[m.CheckpointRef(lineage, ledger.version, effect.term)] = Kept(parts, ledger)
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

    def find(
        self, effect: e.FindCheckpoint, new_lineage: str, is_damaged: Callable[[], bool]
    ) -> e.CheckpointFound:
        refs, passed_over = self.of(effect.sources), []
        versions = tuple(ref.version for ref in refs)
        for ref in refs:
            if effect.version not in (None, ref.version):
                continue
            if is_damaged():
                passed_over.append(f"version {ref.version}")
                continue
            damaged, numerics = tuple(passed_over), "eager/cpu"
            ledger = self.kept[ref].ledger
            return e.CheckpointFound(ref, ledger, versions, new_lineage, damaged, numerics)
        return e.CheckpointFound(None, None, versions, new_lineage, tuple(passed_over))
