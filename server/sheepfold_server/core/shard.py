"""One job on one shard: the state machine that stages parts, folds them in slot order and applies steps.

One door: `handle(event) -> [effect]`. It never sees a tensor: parts are named by their attempt, the kernel
thread carries out effects in their order and answers with events.
"""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.headers import ShardJob
from sheepfold_server.core.parts import Parts
from sheepfold_server.core.pulls import Pulls
from sheepfold_server.core.receiving import Receiving
from sheepfold_server.core.sums import Sum, SumPhase
from sheepfold_wire.ids import NOTHING_LOADED, AttemptId


class Shard:
    """Stages, folds and applies for one job, as the coordinator says."""

    def __init__(self, job: ShardJob) -> None:
        self.job = job
        self.version: int = NOTHING_LOADED
        self._sums: dict[int, Sum] = {}
        self._parts = Parts(job.part_slots)
        self._receiving = Receiving(job, self._parts, self._sums)
        self._pulls = Pulls()
        self._fold = 0
        """Number of the newest kernel effect on a sum; answers about a sum that was dropped are ignored."""
        self._is_loading = False
        self._newest_applied: m.Applied | None = None
        self._out: list[e.ShardEffect] = []

    def handle(self, event: e.ShardEvent) -> list[e.ShardEffect]:
        """Take one event; returns what to do, in order."""
        match event:
            case e.Command(command):
                self._on_command(command)
            case e.PushOpened():
                self._out.extend(self._receiving.open(event, self.version))
            case e.PushReceived():
                self._out.extend(self._receiving.receive(event))
            case e.PushBroken(token):
                self._receiving.break_off(token)
            case e.PullAsked(token, version):
                self._out.extend(self._pulls.ask(token, version, self.version))
            case e.PullGone(token):
                self._pulls.forget(token)
            case e.DigestAsked(token):
                self._out.extend(self._pulls.ask_digest(token, self.version, self.is_applying()))
            case e.Loaded():
                self._on_loaded()
            case e.FoldDone() | e.FoldFailed() | e.SumReady() | e.Appended():
                self._on_sum(event)
            case e.DirectionsReady():
                self._on_directions(event)
            case e.WeightsReady():
                self._on_weights(event)
        out, self._out = self._out, []
        return out

    def _report(self, report: m.ShardReport) -> None:
        self._out.append(e.Report(report))

    def is_applying(self) -> bool:
        """Whether moments are ahead of weights just now."""
        phases = (SumPhase.DIRECTIONS, SumPhase.NORMS, SumPhase.APPLYING)
        return any(s.phase in phases for s in self._sums.values())

    # --- commands -----------------------------------------------------------------------------------

    def _on_command(self, command: m.ShardCommand) -> None:
        match command:
            case m.OpenJob():
                self._on_open()
            case m.Expect():
                self._out.extend(self._receiving.expect(command, self.version))
            case m.EndAttempts():
                self._out.extend(self._receiving.end(command, self.version))
            case m.LoadInit():
                self._on_load(command)
            case m.Admit():
                self._on_admit(command)
            case m.Refold():
                self._on_refold(command)
            case m.Restart():
                self._reset_sum(command.step, drop=self._parts.of_step(command.step))
            case m.Close():
                self._on_close(command)
            case m.Commit():
                self._on_commit(command)
            case m.Totals():
                self._on_totals(command)
            case m.KeepVersions(_, versions):
                self._pulls.keep(versions)
                self._retire()
            case m.Welcome():
                pass

    def _drop(self, attempts: list[AttemptId]) -> None:
        held = self._parts.drop(attempts)
        if held:
            self._out.append(e.DropParts(held))

    def _on_open(self) -> None:
        """Said once, and again after a link came back: say where we stand, forget what is undecided.

        A staged init part stays: the word to load it may be what was lost.
        """
        self._drop([key for key in self._parts.unadmitted() if not self._parts.is_staged_init(key)])
        self._report(m.JobOpened(self.job.job, self.job.part_slots, self.version))
        if self.version > NOTHING_LOADED:
            self._report_applied()
        for step in sorted(self._sums):
            norms = self._sums[step].norms
            if norms is not None:
                self._report(norms)

    def _report_applied(self) -> None:
        if self._newest_applied is not None:
            self._report(self._newest_applied)

    def _on_load(self, command: m.LoadInit) -> None:
        if self.version > NOTHING_LOADED:
            self._report_applied()
        elif not self._is_loading:
            self._is_loading = True
            self._out.append(e.LoadState(command.attempt))

    def _on_loaded(self) -> None:
        self.version, self._is_loading = 0, False
        self._drop(self._parts.unadmitted())
        self._newest_applied = m.Applied(self.job.job, -1, ())
        self._report_applied()
        self._serve_pulls()

    def _on_admit(self, command: m.Admit) -> None:
        if command.step < self.version:
            return
        found = self._sums.setdefault(command.step, Sum(command.step))
        known = found.admitted.get(command.slot)
        if known is not None and known[0] == command.attempt:
            return
        if known is not None or not self._parts.admit(command.attempt, command.step):
            self._halt(
                f"slot {command.slot} of step {command.step} is admitted as {command.attempt}, "
                f"held is {known}"
            )
            return
        found.admitted[command.slot] = (command.attempt, command.factor)
        self._fold_ready(found)

    def _halt(self, why: str) -> None:
        self._report(m.ShardFailed(self.job.job, why))
        self._out.append(e.Halt(why))

    def _next_fold(self, found: Sum) -> int:
        self._fold += 1
        found.awaited = self._fold
        return self._fold

    def _fold_ready(self, found: Sum) -> None:
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
            compared = tuple(s.attempt for s in found.close.slots) if self.job.compares(found.step) else ()
            fold, divisor = self._next_fold(found), found.close.divisor
            self._out.append(e.FinishSum(found.step, fold, divisor, compared))

    def _on_sum(self, event: e.FoldDone | e.FoldFailed | e.SumReady | e.Appended) -> None:
        """The kernel answers; what belongs to a sum that was dropped meanwhile is ignored."""
        found = self._sums.get(event.step)
        if found is None or event.fold != found.awaited:
            return
        found.awaited = None
        match event:
            case e.FoldDone():
                assert found.folding_until is not None
                found.folded, found.folding_until = found.folding_until, None
                found.fold_seconds += event.seconds
                self._parts.folded(key for key, _ in (found.admitted[s] for s in range(found.folded)))
                if found.close is None or found.folded < len(found.close.slots):  # else PREPARED says it
                    self._report(m.Folded(self.job.job, found.step, found.folded, found.can_refold))
                self._fold_ready(found)
            case e.FoldFailed():
                found.is_broken = True
                self._forget_folds(found)
                self._report(m.PartLost(self.job.job, found.step, event.slot))
            case e.SumReady():
                assert found.close is not None
                close = found.close
                found.prepared = m.Prepared(
                    self.job.job,
                    found.step,
                    close.map_digest,
                    event.is_finite,
                    event.max_abs,
                    event.sum_of_squares,
                )
                self._out.append(e.Append(found.step, self._next_fold(found), close.map_digest, close.slots))
            case e.Appended():
                assert found.prepared is not None
                found.phase = SumPhase.PREPARED
                self._report(found.prepared)

    def _on_refold(self, command: m.Refold) -> None:
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
            self._forget_folds(found)
        self._fold_ready(found)

    def _forget_folds(self, found: Sum) -> None:
        """The kernel's answers about this sum no longer matter; its numbers start anew."""
        found.folded, found.folding_until, found.awaited = 0, None, None
        self._out.append(e.DiscardSum(found.step))
        self._report(m.Folded(self.job.job, found.step, 0, found.can_refold))

    def _on_close(self, command: m.Close) -> None:
        if command.step < self.version:
            return
        found = self._sums.setdefault(command.step, Sum(command.step))
        mine = tuple(m.SlotEntry(slot, found.admitted[slot][0]) for slot in sorted(found.admitted))
        if mine != command.slots:
            self._halt(
                f"step {command.step} is closed with map {command.map_digest}, which is not what was "
                "admitted here"
            )
            return
        if found.prepared is not None and found.phase is SumPhase.PREPARED:
            self._report(found.prepared)
            return
        found.close = command
        self._fold_ready(found)

    def _reset_sum(self, step: int, drop: list[AttemptId]) -> None:
        found = self._sums.get(step)
        if found is not None and found.decision is not None:
            self._halt(f"step {step} is decided and cannot be restarted")
            return
        self._parts.forget_admission(drop)
        self._drop(drop)
        if found is not None:
            self._forget_folds(found)
            del self._sums[step]

    # --- commit and apply -----------------------------------------------------------------------------

    def _on_commit(self, command: m.Commit) -> None:
        if command.step < self.version:
            self._report_applied()
            return
        if command.step != self.version:
            self._halt(f"commit of step {command.step}, version {self.version} is next")
            return
        found = self._sums.setdefault(command.step, Sum(command.step))
        if found.decision is not None:
            return
        if command.is_skip:
            found.decision = command
            found.folded, found.folding_until, found.awaited = 0, None, None
            self._out.append(e.SkipStep(command.step, self.job.counts_skips))
            self._out.append(e.KeepVersion(command.step))
            self._finish_step(found, (), 0.0, 0.0)
            return
        if (
            found.prepared is None
            or found.phase is not SumPhase.PREPARED
            or found.prepared.map_digest != command.map_digest
        ):
            self._halt(
                f"commit of step {command.step} with map {command.map_digest}, which is not prepared here"
            )
            return
        found.decision, found.phase = command, SumPhase.DIRECTIONS
        self._out.append(e.ComputeDirections(command))

    def _on_directions(self, event: e.DirectionsReady) -> None:
        found = self._sums[event.step]
        assert found.decision is not None
        if self.job.holds_split:
            found.phase = SumPhase.NORMS
            found.norms = m.Norms(self.job.job, event.step, event.split_blocks)
            self._report(found.norms)
        else:
            found.phase = SumPhase.APPLYING
            self._out.append(e.ApplyUpdate(found.decision))

    def _on_totals(self, command: m.Totals) -> None:
        found = self._sums.get(command.step)
        if found is None or found.phase is not SumPhase.NORMS or found.decision is None:
            return
        found.phase, found.norms = SumPhase.APPLYING, None
        self._out.append(e.ApplyUpdate(found.decision, command.slices))

    def _on_weights(self, event: e.WeightsReady) -> None:
        self._finish_step(self._sums[event.step], event.slices, event.apply_seconds, event.encode_seconds)

    def _finish_step(
        self, found: Sum, slices: tuple[m.SliceReport, ...], apply_seconds: float, encode_seconds: float
    ) -> None:
        """Version t + 1 is visible here; parts of the step are remembered by digest only."""
        self.version = found.step + 1
        self._drop([key for key in self._parts.of_step(found.step) if not self._parts.is_admitted(key)])
        held = self._parts.commit(found.step, keep_since=self.version - self.job.open_steps)
        if held:
            self._out.append(e.DropParts(held))
        del self._sums[found.step]
        self._pulls.oldest = max(0, self.version - self.job.open_steps)
        self._retire()
        self._newest_applied = m.Applied(
            self.job.job, found.step, slices, found.fold_seconds, apply_seconds, encode_seconds
        )
        self._report_applied()
        self._serve_pulls()

    def _retire(self) -> None:
        """Versions that are neither new enough nor pinned need no encoded copies."""
        self._out.append(e.RetireVersions(self._pulls.oldest, self._pulls.kept))

    def _serve_pulls(self) -> None:
        self._out.extend(self._pulls.applied(self.version, self.is_applying()))
