"""One job on one shard: the state machine that stages parts, folds them in slot order and applies steps.

One door: `handle(event) -> [effect]`. It never sees a tensor: parts are named by their attempt, the kernel
thread carries out effects in their order and answers with events.
"""

from __future__ import annotations

from dataclasses import replace

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.folding import Folding
from sheepfold_server.core.headers import ShardJob
from sheepfold_server.core.parts import Parts
from sheepfold_server.core.pulls import Pulls
from sheepfold_server.core.receiving import Receiving
from sheepfold_server.core.replay import Recovered
from sheepfold_server.core.sums import Sum, SumPhase
from sheepfold_wire.ids import NOTHING_LOADED, AttemptId


class Shard:
    """Stages, folds and applies for one job, as the coordinator says."""

    def __init__(self, job: ShardJob, recovered: Recovered | None = None) -> None:
        """`recovered`: what this shard's log says of an earlier process."""
        self.job = job
        self.version: int = NOTHING_LOADED
        self._sums: dict[int, Sum] = {}
        self._parts = Parts(job.part_slots)
        self._receiving = Receiving(job, self._parts, self._sums)
        self._pulls = Pulls()
        self._is_loading = False
        self._newest_applied: m.Applied | None = None
        self._out: list[e.ShardEffect] = []
        self._folding = Folding(job, self._parts, self._sums, self._out)
        if recovered is not None:
            self._recover(recovered)

    def _recover(self, found: Recovered) -> None:
        self.version = found.version
        self._pulls.oldest = max(0, found.oldest_version)
        self._parts.note_announced((found.newest_attempt,))
        if found.init is not None:
            self._parts.recover_init(found.init)
        if found.prepared is not None:
            self._sums[found.version] = Sum.recovered(found.prepared)
        if found.version > NOTHING_LOADED:
            self._newest_applied = m.Applied(self.job.job, found.version - 1, found.slices)

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
            case e.InitLogged():
                self._out.extend(self._receiving.logged(event))
            case e.Loaded():
                self._on_loaded()
            case e.FoldDone() | e.FoldFailed() | e.SumReady() | e.Appended():
                self._folding.answer(event)
            case e.Skipped(step):
                self._out.append(e.KeepVersion(step))
                self._finish_step(self._sums[step], (), 0.0, 0.0)
            case e.PartStored(saved):
                self._report(saved)
            case e.DirectionsReady():
                self._on_directions(event)
            case e.WeightsReady():
                self._on_weights(event)
        out = list(self._out)
        self._out.clear()
        return out

    def _report(self, report: m.ShardReport) -> None:
        self._out.append(e.Report(report))

    @property
    def newest_attempt(self) -> AttemptId:
        """Of those the coordinator has spoken of."""
        return self._parts.newest

    def is_applying(self) -> bool:
        """Whether moments are ahead of weights just now."""
        phases = (SumPhase.DIRECTIONS, SumPhase.NORMS, SumPhase.APPLYING)
        return any(s.phase in phases for s in self._sums.values())

    # --- commands -----------------------------------------------------------------------------------

    def _on_command(self, command: m.ShardCommand) -> None:
        match command:
            case m.OpenJob():
                self._on_open(command.term)
            case m.Expect():
                self._out.extend(self._receiving.expect(command, self.version))
            case m.EndAttempts():
                self._out.extend(self._receiving.end(command, self.version))
            case m.LoadInit():
                self._on_load(command)
            case m.Admit():
                self._on_admit(command)
            case m.Refold():
                self._folding.refold(command)
            case m.Restart():
                self._reset_sum(command.step, drop=self._parts.of_step(command.step))
            case m.Close():
                self._on_close(command)
            case m.Commit():
                self._on_commit(command)
            case m.Totals():
                self._on_totals(command)
            case m.SaveCheckpoint(_, version):
                self._on_save(version)
            case m.KeepVersions(_, versions):
                self._pulls.keep(versions)
                self._retire()
            case m.Welcome():
                pass

    def _drop(self, attempts: list[AttemptId]) -> None:
        held = self._parts.drop(attempts)
        if held:
            self._out.append(e.DropParts(held))

    def _on_open(self, term: int) -> None:
        """Said once, and again after a link came back: say where we stand, forget what is undecided.

        A staged init part stays: the word to load it may be what was lost.
        """
        if term < self.job.term:  # said by an earlier coordinator, and late
            return
        if term != self.job.term:
            self._change_term(term)
        self._drop([key for key in self._parts.unadmitted() if not self._parts.is_staged_init(key)])
        found = self._sums.get(self.version)
        held = "" if found is None or found.prepared is None else found.prepared.map_digest
        self._report(m.JobOpened(self.job.job, self.job.part_slots, self.version, self.job.term, held))
        if self.version > NOTHING_LOADED:
            self._report_applied()
        for step in sorted(self._sums):
            norms = self._sums[step].norms
            if norms is not None:
                self._report(norms)

    def _change_term(self, term: int) -> None:
        """Another coordinator knows none of our parts. A sum that is logged stays: it may be decided."""
        self.job = replace(self.job, term=term)
        self._receiving.change_term(self.job)
        self._drop(self._parts.uncommitted())
        for step, found in list(self._sums.items()):
            if found.phase in (SumPhase.FOLDING, SumPhase.FINISHING):
                del self._sums[step]
                self._out.append(e.DiscardSum(step))

    def _report_applied(self) -> None:
        if self._newest_applied is not None:
            self._report(self._newest_applied)

    def _on_load(self, command: m.LoadInit) -> None:
        if self.version > NOTHING_LOADED:
            self._report_applied()
        elif not self._parts.is_staged_init(command.attempt):
            self._report(m.ShardFailed(self.job.job, "the initial weights it had are lost", self.job.term))
        elif not self._is_loading:
            self._is_loading = True
            self._out += [e.AppendNote(command), e.LoadState(command.attempt)]

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
        self._folding.fold_ready(found)

    def _halt(self, why: str) -> None:
        self._report(m.ShardFailed(self.job.job, why, self.job.term))
        self._out.append(e.Halt(why))

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
        self._folding.fold_ready(found)

    def _reset_sum(self, step: int, drop: list[AttemptId]) -> None:
        found = self._sums.get(step)
        if found is not None and found.decision is not None:
            self._halt(f"step {step} is decided and cannot be restarted")
            return
        self._parts.forget_admission(drop)
        self._drop(drop)
        if found is not None:
            self._folding.forget(found)
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
            found.decision, found.phase = command, SumPhase.SKIPPING
            found.folded, found.folding_until, found.awaited = 0, None, None
            self._out += [e.AppendNote(command), e.SkipStep(command.step, self.job.counts_skips)]
            return
        if not found.is_prepared_as(command.map_digest):
            self._halt(
                f"commit of step {command.step} with map {command.map_digest}, which is not prepared here"
            )
            return
        found.decision, found.phase = command, SumPhase.DIRECTIONS
        self._out += [e.AppendNote(command), e.ComputeDirections(command)]

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
        self._out += [e.AppendNote(command), e.ApplyUpdate(found.decision, command.slices)]

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

    def _on_save(self, version: int) -> None:
        """The present version, between two steps: the commit of the next one comes after this command.

        Or one before it, to go back to.
        """
        older = tuple(range(version - 1, max(0, version - self.job.delay) - 1, -1))
        if version == self.version and not self.is_applying():
            self._out.append(e.StorePart(version, older))
        elif 0 <= version <= self.version:
            self._out.append(e.StoreEarlier(version, older))
        else:
            why = f"shard {self.job.shard} holds version {self.version}"
            self._report(m.PartSaved(self.job.job, version, "", 0, "", why))

    def _retire(self) -> None:
        """Versions that are neither new enough nor pinned need no encoded copies."""
        self._out.append(e.RetireVersions(self._pulls.oldest, self._pulls.kept))

    def _serve_pulls(self) -> None:
        self._out.extend(self._pulls.applied(self.version, self.is_applying()))
