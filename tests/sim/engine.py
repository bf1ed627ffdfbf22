"""A fake numeric engine: executes the kernel effects of one shard in order, taking simulated time.

A gradient is one exact integer, unique to samples, version and weights, and equal on every shard. The state
is a hash of (state, ordered contributions, factors, decision), so equal states mean equal histories.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.sim.scenario import Setting

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.events import SkipStep
from sheepfold_server.core.records import InitPart, PreparedSum, ShardRecord
from sheepfold_server.core.replay import (
    LoadLogged,
    ReplayEffect,
    RestoreState,
    RestoreSum,
    ServeLogged,
    VersionDone,
)
from sheepfold_server.core.state import Geometry
from sheepfold_wire.ids import AttemptId

Logged = tuple[ShardRecord, object]
"""A record of the shard's log, and its payload."""

Folded = tuple[int, AttemptId, int, float]
"""(slot, attempt, gradient, factor)"""

KernelEffect = (
    e.LoadState
    | e.FoldSlots
    | e.FinishSum
    | e.LogInit
    | e.Append
    | e.AppendNote
    | e.DiscardSum
    | e.SkipStep
    | e.ComputeDirections
    | e.ApplyUpdate
    | e.StorePart
    | e.StoreEarlier
)
"""StorePart and StoreEarlier are the host's to carry out."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a worker pushes; `sequence` is its place in the sample stream, in slots."""

    attempt: AttemptId
    gradient: int
    is_finite: bool
    facts: m.Facts
    sequence: int

    @property
    def digest(self) -> bytes:
        return (self.gradient & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little") + bytes([self.is_finite])


@dataclass(slots=True)
class SumOfStep:
    parts: list[Folded] = field(default_factory=list)
    divisor: float = 0.0

    def value(self) -> int:
        """The sum, as a hash of what went into it, in order; attempts do not count."""
        return hash(
            (tuple((slot, gradient, factor) for slot, _, gradient, factor in self.parts), self.divisor)
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """One step as this shard made it: the ledger of the invariants."""

    step: int
    is_skip: bool
    parts: tuple[Folded, ...]
    learning_rate: float
    clip_scale: float
    present: bytes


class Engine:
    def __init__(self, shard: int, setting: Setting, geometry: Geometry, disk: list[Logged]) -> None:
        """`disk`: the shard's log, which outlives the process."""
        self.shard, self.disk = shard, disk
        self.setting = setting
        self.geometry = geometry
        self.bytes: dict[AttemptId, Contribution] = {}
        self.ahead: set[AttemptId] = set()
        """Of which some bytes were pushed ahead."""
        self.weights: dict[int, int] = {}
        """State by version, as far as it is still encoded."""
        self.state = 0
        self.sums: dict[int, SumOfStep] = {}
        self.appended: dict[int, tuple[m.SlotEntry, ...]] = {}
        """Slot map of the newest prepare record, by step."""
        self.applied: list[Applied] = []
        self.wrong_totals: str = ""

    # --- bytes and encoded copies: beside the kernel ------------------------------------------------

    def drop(self, attempts: tuple[AttemptId, ...]) -> None:
        for attempt in attempts:
            self.bytes.pop(attempt, None)
            self.ahead.discard(attempt)

    def gather(self, effect: e.ShardEffect) -> tuple[Contribution | None, ...]:
        """The bytes an effect works on, taken when it is asked for: a later drop does not pull them away."""
        match effect:
            case e.LoadState(attempt):
                return (self.bytes[attempt],)
            case e.LogInit(staged):
                return (self.bytes.get(staged.attempt),)
            case e.FoldSlots(parts=parts):
                return tuple(self.bytes.get(attempt) for _, attempt, _ in parts)
        return ()

    def keep(self, effect: e.KeepVersion) -> None:
        self.weights[effect.step + 1] = self.weights[effect.step]
        self.applied.append(Applied(effect.step, True, (), 0.0, 0.0, b""))

    def retire(self, oldest: int, kept: frozenset[int]) -> None:
        for version in [version for version in self.weights if version < oldest and version not in kept]:
            del self.weights[version]

    # --- the kernel ---------------------------------------------------------------------------------

    def execute(
        self, effect: KernelEffect, gathered: tuple[Contribution | None, ...], loses_part: bool
    ) -> e.ShardEvent | None:
        """Carry out one kernel effect; returns the event it is answered with."""
        match effect:
            case e.DiscardSum(step):
                self.sums.pop(step, None)
                return None
            case e.SkipStep(step):
                self.sums.pop(step, None)
                return e.Skipped(step)
            case e.LogInit(staged):
                self.disk.append((InitPart(staged), gathered[0]))
                return e.InitLogged(staged)
            case e.LoadState():
                assert gathered[0] is not None
                self._load(gathered[0])
                return e.Loaded()
            case e.FoldSlots():
                if loses_part:
                    self.bytes.pop(effect.parts[-1][1], None)
                    gathered = (*gathered[:-1], None)
                return self._fold(effect, gathered)
            case e.FinishSum(step, fold, divisor):
                self.sums[step].divisor = divisor
                return self._finish(step, fold)
            case e.Append(step, fold, record):
                total = self.sums[step]
                self.appended[step] = record.slots
                self.disk.append((record, SumOfStep(list(total.parts), total.divisor)))
                return e.Appended(step, fold)
            case e.AppendNote(note):
                self.disk.append((note, None))
                return None
            case e.ComputeDirections(decision):
                blocks = [b for b in self.geometry.blocks_of_shard[self.shard] if self._is_split(b)]
                return e.DirectionsReady(decision.step, tuple(self._block_norms(decision, b) for b in blocks))
            case e.ApplyUpdate():
                return self._apply(effect)
            case e.StorePart() | e.StoreEarlier():
                raise LookupError(f"{effect} is carried out by the host")

    def _load(self, part: Contribution) -> None:
        self.state = self.weights[0] = hash((0, part.gradient))

    def redo(self, effect: ReplayEffect, open_steps: int) -> None:
        """What the log says was done before."""
        match effect:
            case LoadLogged(place):
                part = self.disk[place][1]
                assert isinstance(part, Contribution)
                self._load(part)
            case RestoreState(place=place):
                state = self.disk[place][1]
                assert isinstance(state, int)
                self.state = state
            case RestoreSum(step, place):
                record, total = self.disk[place]
                assert isinstance(record, PreparedSum)
                assert isinstance(total, SumOfStep)
                self.sums[step] = SumOfStep(list(total.parts), total.divisor)
                self.appended[step] = record.slots
            case SkipStep(step):
                self.sums.pop(step, None)
                self.keep(e.KeepVersion(step))
            case ServeLogged(version, place):
                state = self.disk[place][1]
                assert isinstance(state, int)
                self.weights[version] = state
            case VersionDone(version):
                self.weights[version] = self.state
                self.retire(version - open_steps, frozenset())
            case _:
                self.execute(effect, (), False)

    def _fold(self, effect: e.FoldSlots, gathered: tuple[Contribution | None, ...]) -> e.ShardEvent:
        if effect.is_first:
            self.sums[effect.step] = SumOfStep()
        total = self.sums.setdefault(effect.step, SumOfStep())
        for (slot, attempt, factor), part in zip(effect.parts, gathered, strict=True):
            if part is None:
                return e.FoldFailed(effect.step, effect.fold, slot)
            total.parts.append((slot, attempt, part.gradient, factor))
        return e.FoldDone(effect.step, effect.fold)

    def _finish(self, step: int, fold: int) -> e.SumReady:
        value = self.sums[step].value()
        is_here = self.shard == step % len(self.geometry.blocks_of_shard)
        squares = tuple(_gradient_squares(value, b) for b in self.geometry.blocks_of_shard[self.shard])
        return e.SumReady(step, fold, not (self.setting.overflows(step) and is_here), 1.0, squares)

    def _is_split(self, block: int) -> bool:
        return self.geometry.slice_of_block[block] in self.geometry.plan.split_slices

    def _block_norms(self, decision: m.Commit, block: int) -> m.BlockNorms:
        mixed = hash((self.state, self.sums[decision.step].value(), decision.learning_rate, block))
        return m.BlockNorms(block, (mixed % 1000) / 7.0, (mixed // 1000 % 1000) / 7.0)

    def _apply(self, effect: e.ApplyUpdate) -> e.ShardEvent:
        decision, total = effect.decision, self.sums[effect.decision.step]
        if effect.totals != self._totals(decision):
            self.wrong_totals = f"step {decision.step}: {effect.totals} is not {self._totals(decision)}"
        self.state = hash(
            (
                self.state,
                decision.step,
                total.value(),
                decision.learning_rate,
                decision.clip_scale,
                int.from_bytes(decision.present, "little"),
            )
        )
        self.weights[decision.step + 1] = self.state
        self.applied.append(
            Applied(
                decision.step,
                False,
                tuple(total.parts),
                decision.learning_rate,
                decision.clip_scale,
                decision.present,
            )
        )
        del self.sums[decision.step]
        return e.WeightsReady(decision.step, ())

    def _totals(self, decision: m.Commit) -> tuple[m.SliceTotals, ...]:
        """What the exchange must give: every block of each split slice, added in block order."""
        if self.shard not in self.geometry.split_shards:
            return ()
        totals = []
        for index in sorted(self.geometry.plan.split_slices):
            weights = updates = gradients = 0.0
            value = self.sums[decision.step].value()
            for block, owner in enumerate(self.geometry.slice_of_block):
                if owner == index:
                    norms = self._block_norms(decision, block)
                    weights, updates = weights + norms.weight_partial, updates + norms.update_partial
                    gradients += _gradient_squares(value, block)
            totals.append(m.SliceTotals(index, weights, updates, gradients))
        return tuple(totals)


def _gradient_squares(value: int, block: int) -> float:
    """Of one block of a step's mean gradient; equal on every shard that has the same sum."""
    return (hash((value, block)) % 1000 + 1) / 7.0
