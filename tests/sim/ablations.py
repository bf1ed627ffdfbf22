"""Safeguards taken away one by one, by subclassing: each must be caught by the invariant that needs it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from tests.sim import ablations_of_checkpoints as of
from tests.sim import ablations_of_fences as fences
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
from sheepfold_wire.job import Job


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

    def _on_totals(self, totals: m.Totals) -> None:
        step = self._s.steps.get(totals.step)
        if step is None or step.totals is not None:
            return
        gradients = {t.slice: t.gradient_squares for t in totals.slices}
        sums: dict[int, tuple[float, float]] = {}
        for norms in reversed(step.norms.values()):
            for block in norms.blocks:
                index = self._geometry.slice_of_block[block.block]
                weights, updates = sums.get(index, (0.0, 0.0))
                sums[index] = weights + block.weight_partial, updates + block.update_partial
        slices = tuple(m.SliceTotals(i, *found, gradients[i]) for i, found in sums.items())
        super()._on_totals(m.Totals(self._s.name, step.step, slices))


class _TellsBeforeLog(Stepping):
    def _commit(self, step: OpenStep, decision: m.Commit) -> None:
        super()._commit(step, decision)
        self.on_persisted(self._s.records)


class _IgnoresWindow(Granting):
    def _has_room(self, place: tuple[int, int]) -> bool:
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


class NotesNothing(Shard):
    """A decision is acted on without a note of it in the log."""

    def handle(self, event: e.ShardEvent) -> list[e.ShardEffect]:
        return [effect for effect in super().handle(event) if not isinstance(effect, e.AppendNote)]


class _KeepsTotalsToItself(Shard):
    """The norms of split slices are not noted: one shard cannot replay the step alone."""

    def handle(self, event: e.ShardEvent) -> list[e.ShardEffect]:
        def is_totals(effect: e.ShardEffect) -> bool:
            return isinstance(effect, e.AppendNote) and isinstance(effect.note, m.Totals)

        return [effect for effect in super().handle(event) if not is_totals(effect)]


class _SaysPreparedFirst(Shard):
    """PREPARED goes out before the mean gradient is in the log."""

    def handle(self, event: e.ShardEvent) -> list[e.ShardEffect]:
        effects = super().handle(event)
        early = [e.Report(effect.record.prepared) for effect in effects if isinstance(effect, e.Append)]
        return [*effects, *early]


class _StagesInitFirst(Shard):
    """Initial weights count as staged before they are in the log."""

    def handle(self, event: e.ShardEvent) -> list[e.ShardEffect]:
        effects = super().handle(event)
        return [*effects, *(e.Report(f.staged) for f in effects if isinstance(f, e.LogInit))]


class _BeginsNoTerm(Coordinator):
    """Every process is the first: attempts of an earlier one have the same numbers."""

    def __init__(self, job: Job, shard_count: int, term: int, lineage: str, checkpoint_url: str) -> None:
        super().__init__(job, shard_count, 1, lineage, checkpoint_url)


class _KeepsTime(Coordinator):
    """Readings of the clock of an earlier process are compared with its own."""

    newest: ClassVar[float] = 0.0

    def __init__(self, job: Job, shard_count: int, term: int, lineage: str, checkpoint_url: str) -> None:
        super().__init__(job, shard_count, term, lineage, checkpoint_url)
        if term == 1:
            _KeepsTime.newest = 0.0

    def handle(self, event: e.CoordinatorEvent, now: float) -> list[e.CoordinatorEffect]:
        _KeepsTime.newest = max(_KeepsTime.newest, now)
        return super().handle(event, _KeepsTime.newest)


class _ForgetsPrepared(Recovery):
    """What shards prepared for an earlier term is left standing."""

    def _forget_earlier_terms(self, shard: int) -> None:
        pass


class _TellsTotalsOnce(Stepping):
    """A shard that was started anew between its pass 1 and the totals is not told them again."""

    def on_norms(self, shard: int, report: m.Norms) -> None:
        step = self._s.steps.get(report.step)
        if step is None or step.totals is None:
            super().on_norms(shard, report)


ABLATIONS: dict[str, tuple[Cores, set[str]]] = {
    "no deduplication": (Cores(shard=FoldsEveryPush), {"exactly_once"}),
    "admitted before all shards staged it": (
        Cores(coordinator=_with(_stepping=_AdmitsFirstStaged)),
        {"all_shards_or_none"},
    ),
    "slots filled again": (
        Cores(coordinator=_with(_stepping=fences.FillsSlotsAgain)),
        {"exactly_once", "all_shards_or_none", "told_the_truth"},
    ),
    "attempts picked by each shard": (Cores(shard=fences.PicksAttempts), {"all_shards_or_none"}),
    "replaced links heard": (Cores(stream=fences.HearsReplacedLinks), {"liveness"}),
    "openings of earlier links answered": (Cores(host=fences.AnswersOldLinks), {"all_shards_or_none"}),
    "any term obeyed": (
        Cores(shard=fences.ObeysAnyTerm, host=fences.AnswersOldLinks),
        {"liveness"},
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
    "decisions acted on without a note": (Cores(shard=NotesNothing), {"consistent_versions"}),
    "norms not noted": (Cores(shard=_KeepsTotalsToItself), {"consistent_versions"}),
    "prepared before it is logged": (Cores(shard=_SaysPreparedFirst), {"all_shards_or_none"}),
    "initial weights staged before they are logged": (
        Cores(shard=_StagesInitFirst),
        {"liveness", "sessions_go_on"},
    ),
    "the same term again": (
        Cores(coordinator=_BeginsNoTerm),
        {"all_shards_or_none", "exactly_once", "liveness", "told_the_truth"},
    ),
    "times of an earlier process kept": (Cores(coordinator=_KeepsTime), {"liveness"}),
    "prepared sums of earlier terms kept": (
        Cores(coordinator=_with(_recovery=_ForgetsPrepared)),
        {"all_shards_or_none"},
    ),
    "totals told once": (Cores(coordinator=_with(_stepping=_TellsTotalsOnce)), {"liveness"}),
    "mixed versions taken": (Cores(session=TakesMixedVersions), {"pure_pull"}),
    "checkpoint cut anywhere": (
        Cores(coordinator=_with(_checkpointing=of.CutsAnywhere), shard=of.StoresWhatever),
        {
            "same_history",
            "consistent_versions",
            "all_shards_or_none",
            "books_are_the_log",
            "checkpoint_is_whole",
        },
    ),
    "index stored before its parts": (
        Cores(coordinator=_with(_checkpointing=of.StoresIndexFirst)),
        {"checkpoint_is_whole"},
    ),
    "parts not verified": (Cores(store=of.TrustsParts), {"read_as_stored"}),
    "older versions not stored": (Cores(shard=of.StoresOneVersion), {"liveness"}),
    "went back before it was written": (
        Cores(coordinator=_with(_rewinding=of.GoesBackUnwritten)),
        {"lineage_is_durable"},
    ),
    "decided after it went back": (
        Cores(coordinator=_with(_rewinding=of.DecidesOn)),
        {"consistent_versions", "published_in_order", "all_shards_or_none", "liveness", "exactly_once"},
    ),
    "returned samples not in the books": (
        Cores(coordinator=_with(_granting=of.ForgetsReturned)),
        {"liveness", "conservation", "books_are_the_log"},
    ),
    "lease kept over a lineage": (Cores(session=of.KeepsLease), {"liveness", "pure_pull"}),
    "stale answers taken": (Cores(session=TakesStaleAnswers), {"sessions_go_on", "pure_pull"}),
}
"""What is taken away: the classes, and the invariants one of which must notice.

Not here, because nothing can notice: the comparison of incarnation and term in the header of a push
(`check_header`). An attempt has its term in its name and is announced to one process of a shard; another one
has either not heard of it, and waits, or of its end, and refuses. It only sends a worker to attach sooner.
"""

RARE = {
    "lease kept over a lineage": 4_500,
    "openings of earlier links answered": 2_000,
    "initial weights staged before they are logged": 1_000,
}
"""Where the search for a seed that notices begins, for those that few notice."""
