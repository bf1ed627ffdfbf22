"""The life of a step on the coordinator: staged, admitted, closed, decided, applied.

Steps are committed in order. Every transition that shards must agree on is one command to all of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import sheepfold_wire.messages as m
from sheepfold_server.core import decide
from sheepfold_server.core.acceptance import refused_too_often, why_refused
from sheepfold_server.core.accounts import account
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.events import Publish
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.initialising import Initialising
from sheepfold_server.core.loss_scale import overflows
from sheepfold_server.core.records import InitChosen, SamplesSkipped, TotalsKnown
from sheepfold_server.core.reports import step_report
from sheepfold_server.core.state import Geometry, JobState, Life
from sheepfold_server.core.steps import OpenStep, Phase, SlotState, map_digest
from sheepfold_wire.schedule import learning_rate


class Stepping:
    """Moves open steps on as reports of the shards come in."""

    def __init__(self, state: JobState, granting: Granting) -> None:
        self._s = state
        self._granting = granting
        self._awaited: dict[int, m.Commit | m.LoadInit | m.Totals] = {}
        """Commands that go out once their record is durable, by record number."""
        self._ready: list[Attempt] = []
        """Asynchronous mode: staged on every shard, waiting for a step."""
        self._abandoned: list[tuple[int, str]] = []
        """Asynchronous mode: sequence numbers given up, and why; each skips one step."""
        self._refusals: Counter[tuple[int | None, int]] = Counter()
        """Refused contributions by (step, slot)."""
        self._initialising = Initialising(state)

    @property
    def _geometry(self) -> Geometry:
        assert self._s.geometry is not None
        return self._s.geometry

    # --- opening ------------------------------------------------------------------------------------

    def open_steps(self) -> None:
        """Open steps version .. version + s, as far as the job goes; end the job after its last step."""
        state = self._s
        if state.life is not Life.RUNNING:
            return
        if state.version >= state.stop_steps:
            state.life, state.why = Life.ENDED, f"all {state.stop_steps} steps are committed"
            state.event("state", f"ended: {state.why}")
            for attempt in state.attempts:
                self._granting.end(attempt, "job ended")
            return
        for number in range(state.version, min(state.version + state.job.batch.open_steps, state.stop_steps)):
            if number not in state.steps:
                slots = [SlotState() for _ in range(state.batch.slots(number))]
                state.steps[number] = OpenStep(
                    number, slots, state.now, loss_scale=state.loss_scale_of(number)
                )
        self.admit_ready()
        self.settle_lowest()

    # --- staged and refused -------------------------------------------------------------------------

    def on_staged(self, shard: int, report: m.Staged) -> None:
        attempt = self._s.attempts.get(report.attempt)
        if attempt is None:
            self._s.tell(shard, m.EndAttempts(self._s.name, (report.attempt,), "ended"))
            return
        if attempt.is_staged:
            return
        if attempt.facts is not None and attempt.facts != report.facts:
            self._refuse(attempt, "its facts differ between shards")
            return
        attempt.facts = report.facts
        attempt.staged_on.add(shard)
        attempt.squares[shard] = report.sum_of_squares
        if len(attempt.staged_on) < len(self._s.shards):
            return
        # Only now: each shard says Applied before Staged, so the version is not behind what the worker has.
        wrong = why_refused(self._s, attempt, report.facts)
        if wrong:
            self._refuse(attempt, wrong)
        else:
            self._staged_everywhere(attempt)

    def _refuse(self, attempt: Attempt, why: str) -> None:
        """End an attempt that must not count; a slot refused too often gives up its step or the job."""
        state = self._s
        state.refuse(attempt, why)
        if state.files is not None and (
            skipped := state.files.refuse(attempt.id, state.job.leases.attempts_max)
        ):
            state.persist(SamplesSkipped(tuple(skipped)))
        self._granting.end(attempt, f"refused: {why}")
        if attempt.is_init:
            self._initialising.refuse(why)
            return
        place = (attempt.step, attempt.slot)
        self._refusals[place] += 1
        if self._refusals[place] < state.job.leases.attempts_max:
            return
        text = refused_too_often(state, attempt, self._refusals.pop(place), why)
        if state.job.leases.refused == "pause":
            state.pause(text)
        elif attempt.step is None:
            self._granting.abandon(attempt.slot)
            self._abandoned.append((attempt.slot, text))
            self.admit_ready()
        else:
            state.steps[attempt.step].skip_reason = text
            self.settle_lowest()

    def on_refused(self, report: m.PartRefused) -> None:
        attempt = self._s.attempts.get(report.attempt)
        if attempt is None or attempt.is_admitted:
            return
        why = f"{report.count} non-finite elements in tensor {report.tensor}"
        step = None if attempt.step is None else self._s.steps.get(attempt.step)
        if step is None or not overflows(step.loss_scale):
            self._refuse(attempt, why)
            return
        self._s.refuse(attempt, why)
        self._granting.end(attempt, f"refused: {why}")
        if not step.skip_reason:
            step.overflowed = True
            step.skip_reason = f"slot {attempt.slot} overflowed at loss scale {step.loss_scale:g}: {why}"
        self.settle_lowest()

    def _staged_everywhere(self, attempt: Attempt) -> None:
        """The first attempt of a slot that every shard has staged wins; others of the slot are ended."""
        state = self._s
        state.attempts.stage(attempt)
        if attempt.is_init:
            record = state.persist(InitChosen(attempt.id))
            self._awaited[record] = m.LoadInit(state.name, attempt.id)
            return
        state.attempts.note_duration(state.now - attempt.leased_at)
        worker = state.workers.get(attempt.worker)
        if worker is not None:
            worker.slots_staged += 1
        if attempt.step is None:
            self._ready.append(attempt)
            self.admit_ready()
            return
        step = state.steps[attempt.step]
        slot = step.slots[attempt.slot]
        if slot.winner is not None:
            self._granting.end(attempt, "superseded")
            return
        slot.winner = attempt
        for other in state.attempts.of_slot(attempt.step, attempt.slot):
            if other is not attempt:
                self._granting.end(other, "superseded")
        self._admit(step)

    # --- admission ----------------------------------------------------------------------------------

    def admit_ready(self) -> None:
        """Asynchronous: the oldest staged contribution becomes the open step; a lost one skips it."""
        self._ready = [a for a in self._ready if self._s.attempts.get(a.id) is a and not a.is_admitted]
        step = self._s.steps.get(self._s.version)
        if step is None or not step.is_wanted() or step.slots[0].winner is not None:
            return
        if self._abandoned:
            step.sequence, step.skip_reason = self._abandoned.pop(0)
            self.settle_lowest()
        elif self._ready:
            attempt = self._ready.pop(0)
            self._s.attempts.move(attempt, step.step)
            step.slots[0].winner = attempt
            step.sequence, step.slots[0].attempts = attempt.slot, 1
            self._admit(step)

    def _factor(self, attempt: Attempt, step: int) -> float:
        """Weight in units of a slot's samples: exactly 1 for equal weights, so that sums stay exact."""
        assert attempt.facts is not None
        if self._s.job.batch.weight == "samples" and self._s.job.data.mode != "free":
            return 1.0
        return attempt.facts.weight / self._s.batch.slot_samples(step)

    def _admit(self, step: OpenStep) -> None:
        """Admit winners in slot order, on all shards or on none; close when all are in."""
        while step.phase is Phase.OPEN and not step.is_full():
            attempt = step.slots[step.admitted].winner
            if attempt is None:
                return
            self._s.attempts.admit(attempt)
            job, geometry = self._s.config.at(step.step), self._geometry
            blocks, frozen = geometry.blocks_of_shard, geometry.blocks_of(geometry.frozen_tensors(job))
            clip = decide.slot_clip(job.optimizer, attempt.squares, blocks, frozen)
            factor = self._factor(attempt, step.step) * clip
            self._s.tell_all(m.Admit(self._s.name, step.step, step.admitted, attempt.id, factor))
            step.admitted += 1
        self.settle_lowest()

    # --- close, decide, commit ------------------------------------------------------------------------

    def settle_lowest(self) -> None:
        """Close the lowest open step if it is full, or skip it if it was given up."""
        step = self._s.steps.get(self._s.version)
        if step is None or step.phase is not Phase.OPEN or not self._s.all_ready():
            return
        if step.skip_reason:
            self._give_up(step)
        elif step.is_full():
            entries = tuple(m.SlotEntry(i, a.id) for i, a in enumerate(step.winners()))
            divisor = 0.0
            for attempt in step.winners():
                divisor += self._factor(attempt, step.step)
            digest = map_digest(self._s.name, step.step, entries)
            step.close = m.Close(self._s.name, self._s.term, step.step, digest, entries, divisor)
            step.phase, step.closed_at = Phase.CLOSED, self._s.now
            self._s.tell_all(step.close)

    def _give_up(self, step: OpenStep) -> None:
        """SKIP without a sum: a slot of the step cannot be had."""
        step.closed_at = self._s.now
        job = self._s.config.at(step.step)
        rate = learning_rate(job, step.step)
        self._commit(step, m.Commit(self._s.name, self._s.term, step.step, "", True, rate, 1.0, b""))

    def on_folded(self, shard: int, report: m.Folded) -> None:
        step = self._s.steps.get(report.step)
        if step is None:
            return
        step.folded[shard] = report.folded
        if report.can_refold:
            step.cannot_refold.discard(shard)
        else:
            step.cannot_refold.add(shard)

    def on_prepared(self, shard: int, report: m.Prepared) -> None:
        step = self._s.steps.get(report.step)
        if step is None or step.phase is not Phase.CLOSED or step.close is None:
            return
        if report.map_digest != step.close.map_digest:
            return  # of a map that was given up; the new one is being prepared
        step.prepared[shard] = report
        step.folded[shard] = len(step.slots)
        if len(step.prepared) < len(self._s.shards):
            return
        squares = {shard: report.sum_of_squares for shard, report in step.prepared.items()}
        job, geometry = self._s.config.at(step.step), self._geometry
        frozen = geometry.frozen_tensors(job)
        step.block_squares = decide.squares_in_order(
            squares, geometry.blocks_of_shard, geometry.blocks_of(frozen)
        )
        decision = decide.decide(step.step, job, step.prepared.values(), step.block_squares)
        step.gradient_norm, step.skip_reason = decision.gradient_norm, decision.reason
        present = decide.union_of_presence(a.facts.present for a in step.winners() if a.facts is not None)
        self._commit(
            step,
            m.Commit(
                self._s.name,
                self._s.term,
                step.step,
                report.map_digest,
                decision.is_skip,
                decision.learning_rate,
                decision.clip_scale,
                decide.without(present, frozen),
            ),
        )

    def _commit(self, step: OpenStep, decision: m.Commit) -> None:
        step.phase, step.decided_at, step.decision = Phase.DECIDED, self._s.now, decision
        files = self._s.files
        record = step.decided(lambda key: () if files is None else files.pieces(key))
        self._awaited[self._s.persist(record)] = decision

    def on_persisted(self, number: int) -> None:
        """The record is durable: from here on the decision stands, and everyone may know it."""
        command = self._awaited.pop(number, None)
        if command is None:
            return
        if isinstance(command, m.Commit):
            step = self._s.steps[command.step]
            step.phase, step.durable_at = Phase.APPLYING, self._s.now
        elif isinstance(command, m.Totals):
            self._on_totals(command)
            return
        self._s.tell_all(command)

    def _on_totals(self, totals: m.Totals) -> None:
        step = self._s.steps.get(totals.step)
        if step is not None and step.totals is None:
            step.totals = totals
            for shard in sorted(self._geometry.split_shards):
                self._s.tell(shard, totals)

    def is_durable(self, init: Attempt) -> bool:
        """Whether the record that this init attempt is version 0 has been written."""
        return not any(isinstance(c, m.LoadInit) and c.attempt == init.id for c in self._awaited.values())

    # --- apply and publish ----------------------------------------------------------------------------

    def on_norms(self, shard: int, report: m.Norms) -> None:
        step = self._s.steps.get(report.step)
        if step is None or step.phase is not Phase.APPLYING:
            return
        if step.totals is not None:  # it was started anew since it was told
            self._s.tell(shard, step.totals)
            return
        step.norms[shard] = report
        geometry = self._geometry
        if step.norms.keys() >= geometry.split_shards:
            owners, maxima = geometry.slice_of_block, geometry.maximum_slices
            slices = decide.totals_in_order(step.norms.values(), owners, step.block_squares, maxima)
            totals = m.Totals(self._s.name, step.step, slices)
            self._awaited[self._s.persist(TotalsKnown(totals))] = totals

    def on_applied(self, shard: int, report: m.Applied) -> None:
        state = self._s
        state.shards[shard].note_applied(report)
        if report.step < 0:
            if self._initialising.load(shard):
                self.open_steps()
            return
        step = state.steps.get(report.step)
        if step is None or step.phase is not Phase.APPLYING:
            return
        step.applied[shard] = report
        if len(step.applied) == len(state.shards) and step.step == state.version:
            self._publish(step)

    def _publish(self, step: OpenStep) -> None:
        """Version t + 1 is visible on every shard."""
        state = self._s
        assert step.decision is not None
        if step.decision.is_skip:
            state.event("skip", f"step {step.step} is skipped: {step.skip_reason}")
        report = step_report(state, step)
        account(state, step, self._granting)
        for place in [place for place in self._refusals if place[0] == step.step]:
            del self._refusals[place]
        state.last_commits.append((state.now, state.samples_committed))
        state.outbox.append(Publish(replace(report, counts=state.attempts.counts())))
        self.open_steps()
