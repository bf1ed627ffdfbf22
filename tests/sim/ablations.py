"""Safeguards taken away one by one, by subclassing: each must be caught by the invariant that needs it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.sim.world import Cores

import sheepfold_wire.messages as m
from sheepfold.session import Session
from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.parts import Part, PartState
from sheepfold_server.core.recovery import Recovery
from sheepfold_server.core.shard import Shard
from sheepfold_server.core.stepping import Stepping
from sheepfold_server.core.steps import OpenStep
from sheepfold_server.core.sums import SumPhase


class FoldsEveryPush(Shard):
    """No deduplication: a part pushed again counts again."""

    def handle(self, event: e.ShardEvent) -> list[e.ShardEffect]:
        if isinstance(event, e.PushOpened):
            part = self._parts._parts.get(event.header.attempt)
            if part is not None and part.state is PartState.FOLDED and part.step in self._sums:
                self._fold_once_more(part)
        return super().handle(event)

    def _fold_once_more(self, part: Part) -> None:
        found = self._sums[part.step or 0]
        for slot, (attempt, factor) in found.admitted.items():
            if attempt == part.attempt and found.phase is SumPhase.FOLDING:
                self._out.append(e.FoldSlots(found.step, -1, False, ((slot, attempt, factor),)))


class _AdmitsFirstStaged(Stepping):
    def on_staged(self, shard: int, report: m.Staged) -> None:
        attempt = self._s.attempts.get(report.attempt)
        if attempt is not None and not attempt.is_staged and not attempt.is_init:
            attempt.facts = report.facts
            self._staged_everywhere(attempt)
        else:
            super().on_staged(shard, report)


class _SendsNormsAsTheyCame(Stepping):
    """Totals over blocks in the order the shards answered, not in block order."""

    def on_norms(self, shard: int, report: m.Norms) -> None:
        step = self._s.steps.get(report.step)
        had = step is not None and step.totals is not None
        super().on_norms(shard, report)
        if step is None or had or step.totals is None:
            return
        gradients = {t.slice: t.gradient_squares for t in step.totals.slices}
        totals: dict[int, tuple[float, float]] = {}
        for norms in reversed(step.norms.values()):
            for block in norms.blocks:
                index = self._geometry.slice_of_block[block.block]
                weights, updates = totals.get(index, (0.0, 0.0))
                totals[index] = weights + block.weight_partial, updates + block.update_partial
        wrong = m.Totals(
            self._s.name, step.step, tuple(m.SliceTotals(i, *t, gradients[i]) for i, t in totals.items())
        )
        for effect in [f for f in self._s.outbox if isinstance(f, e.ToShard) and f.command == step.totals]:
            self._s.outbox[self._s.outbox.index(effect)] = e.ToShard(effect.shard, wrong)


class _TellsBeforeLog(Stepping):
    def _commit(self, step: OpenStep, decision: m.Commit) -> None:
        super()._commit(step, decision)
        self.on_persisted(self._s.records)


class _IgnoresWindow(Granting):
    def _has_room(self, is_lowest: bool) -> bool:
        return True


class _NeverExpires(Granting):
    """A lease is for life, also for that of a dead worker."""

    def expire(self) -> None:
        pass


class _KeepsUndecidedSteps(Recovery):
    """After a broken link an undecided step goes on as if every message had arrived."""

    def restart(self, step: OpenStep, why: str) -> None:
        pass


def _with(**parts: type[Any]) -> type[Coordinator]:
    """A coordinator whose parts are of other classes."""

    class Ablated(Coordinator):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            for name, kind in parts.items():
                holder = self._opening if name == "_recovery" else self
                getattr(holder, name).__class__ = kind

    return Ablated


class SkipsByItself(Shard):
    """Each shard decides on its own sum whether the step is skipped."""

    def _on_commit(self, command: m.Commit) -> None:
        found = self._sums.get(command.step)
        if found is not None and found.prepared is not None and found.phase is SumPhase.PREPARED:
            command = replace(command, is_skip=not found.prepared.is_finite)
        super()._on_commit(command)


class TakesMixedVersions(Session):
    """Whatever the shards served is taken for one version."""

    def _finish_pull(self) -> None:
        self._progress.versions = dict.fromkeys(
            self._progress.versions, max(self._progress.versions.values())
        )
        super()._finish_pull()


class TakesStaleAnswers(Session):
    """Answers to calls of an earlier lease or goal count for this one."""

    def _is_stale(self, round_of_call: int) -> bool:
        return False


ABLATIONS: dict[str, tuple[Cores, set[str]]] = {
    "no deduplication": (Cores(shard=FoldsEveryPush), {"exactly_once"}),
    "admitted before all shards staged it": (
        Cores(coordinator=_with(_stepping=_AdmitsFirstStaged)),
        {"all_shards_or_none"},
    ),
    "skip decided by each shard": (Cores(shard=SkipsByItself), {"all_shards_or_none"}),
    "no lease window": (Cores(coordinator=_with(_granting=_IgnoresWindow)), {"bounded_staging"}),
    "norms added as they came": (Cores(coordinator=_with(_stepping=_SendsNormsAsTheyCame)), {"same_history"}),
    "told before the log": (
        Cores(coordinator=_with(_stepping=_TellsBeforeLog)),
        {"consistent_versions", "published_in_order"},
    ),
    "leases never expire": (Cores(coordinator=_with(_granting=_NeverExpires)), {"liveness"}),
    "undecided steps kept over a broken link": (
        Cores(coordinator=_with(_recovery=_KeepsUndecidedSteps)),
        {"all_shards_or_none", "liveness"},
    ),
    "mixed versions taken": (Cores(session=TakesMixedVersions), {"pure_pull"}),
    "stale answers taken": (Cores(session=TakesStaleAnswers), {"sessions_go_on", "pure_pull"}),
}
"""What is taken away: the classes, and the invariants one of which must notice."""
