"""The sums of a shard up to PREPARED: folded in slot order, finished, logged; and how they begin again."""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.headers import ShardJob
from sheepfold_server.core.parts import Parts
from sheepfold_server.core.records import PreparedSum
from sheepfold_server.core.sums import Sum, SumPhase
from sheepfold_wire.ids import AttemptId


class Folding:
    """Appends to `out`, the effects of the shard it is part of."""

    def __init__(self, job: ShardJob, parts: Parts, sums: dict[int, Sum], out: list[e.ShardEffect]) -> None:
        self._job, self._parts, self._sums, self._out = job, parts, sums, out
        self._fold = 0
        """Number of the newest kernel effect on a sum; answers about a sum that was dropped are ignored."""

    def _report(self, report: m.ShardReport) -> None:
        self._out.append(e.Report(report))

    def _drop(self, attempts: list[AttemptId]) -> None:
        held = self._parts.drop(attempts)
        if held:
            self._out.append(e.DropParts(held))

    def fold_ready(self, found: Sum) -> None:
        """Fold every slot that is next in order, several per pass; finish the sum if it is closed."""
        if found.folding_until is not None or found.phase is not SumPhase.FOLDING or found.is_broken:
            return
        slots: list[tuple[int, AttemptId, float]] = []
        while found.folded + len(slots) in found.admitted:
            slot = found.folded + len(slots)
            slots.append((slot, *found.admitted[slot]))
        if slots:
            found.folding_until = found.folded + len(slots)
            self._out.append(e.FoldSlots(found.step, self._next_fold(found), found.folded == 0, tuple(slots)))
        elif found.close is not None and found.folded == len(found.close.slots):
            found.phase = SumPhase.FINISHING
            compared = tuple(s.attempt for s in found.close.slots) if self._job.compares(found.step) else ()
            fold, divisor = self._next_fold(found), found.close.divisor
            self._out.append(e.FinishSum(found.step, fold, divisor, compared))

    def answer(self, event: e.FoldDone | e.FoldFailed | e.SumReady | e.Appended) -> None:
        """The kernel answers; what belongs to a sum that was dropped meanwhile is ignored."""
        found = self._sums.get(event.step)
        if found is None or event.fold != found.awaited:
            return
        found.awaited = None
        match event:
            case e.FoldDone():
                assert found.folding_until is not None
                added = range(found.folded, found.folding_until)
                found.folded, found.folding_until = found.folding_until, None
                found.fold_seconds += event.seconds
                self._parts.folded(found.admitted[slot][0] for slot in added)
                if found.close is None or found.folded < len(found.close.slots):  # else PREPARED says it
                    self._report(m.Folded(self._job.job, found.step, found.folded, found.can_refold))
                self.fold_ready(found)
            case e.FoldFailed():
                found.is_broken = True
                self.forget(found)
                self._report(m.PartLost(self._job.job, found.step, event.slot))
            case e.SumReady():
                assert found.close is not None
                close = found.close
                found.prepared = m.Prepared(
                    self._job.job,
                    found.step,
                    close.map_digest,
                    event.is_finite,
                    event.max_abs,
                    event.sum_of_squares,
                )
                record = PreparedSum(found.prepared, close.slots)
                self._out.append(e.Append(found.step, self._next_fold(found), record))
            case e.Appended():
                assert found.prepared is not None
                found.phase = SumPhase.PREPARED
                self._report(found.prepared)

    def refold(self, command: m.Refold) -> None:
        """Forget the lost slots; the sum begins again from raw bytes if it had gone past them."""
        found = self._sums.get(command.step)
        if found is None:
            return
        lost = [found.admitted.pop(slot)[0] for slot in command.lost_slots if slot in found.admitted]
        reached = found.folded if found.folding_until is None else found.folding_until
        self._parts.forget_admission(lost)
        self._drop(lost)
        found.close, found.prepared, found.phase, found.is_broken = None, None, SumPhase.FOLDING, False
        if reached > min(command.lost_slots):
            self.forget(found)
        self.fold_ready(found)

    def forget(self, found: Sum) -> None:
        """The kernel's answers about this sum no longer matter; its numbers start anew."""
        found.folded, found.folding_until, found.awaited = 0, None, None
        self._out.append(e.DiscardSum(found.step))
        self._report(m.Folded(self._job.job, found.step, 0, found.can_refold))

    def _next_fold(self, found: Sum) -> int:
        self._fold += 1
        found.awaited = self._fold
        return self._fold
