"""What is lost and how it comes back: parts, links, and the memory of a shard. There is no partial undo."""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.state import JobState
from sheepfold_server.core.stepping import Stepping
from sheepfold_server.core.steps import OpenStep, Phase, SlotState


class Recovery:
    """Refolds or restarts undecided steps; repeats what is decided."""

    def __init__(self, state: JobState, granting: Granting, stepping: Stepping) -> None:
        self._s = state
        self._granting = granting
        self._stepping = stepping

    def on_part_lost(self, shard: int, report: m.PartLost) -> None:
        """Refold where every shard holds the raw bytes and has room for the slot again, else RESTART(t)."""
        step = self._s.steps.get(report.step)
        if step is None or step.phase not in (Phase.OPEN, Phase.CLOSED) or report.slot >= step.admitted:
            return
        self._s.event("shard", f"shard {shard} lost slot {report.slot} of step {report.step}")
        if step.cannot_refold:
            self.restart(step, f"shard {shard} lost slot {report.slot} and raw bytes are gone")
        elif not self._leaves_room(step, report.slot):
            self.restart(
                step, f"shard {shard} lost slot {report.slot} and the slots above it fill the window"
            )
        else:
            slot = step.slots[report.slot]
            assert slot.winner is not None
            self._end(slot.winner, "lost by a shard")
            slot.winner = None
            for waiting in step.reopen(report.slot):
                self._s.attempts.withdraw(waiting)
            self._s.tell_all(m.Refold(self._s.name, step.step, (report.slot,)))
        self._stepping.admit_ready()

    def _leaves_room(self, step: OpenStep, lost: int) -> bool:
        """Whether the lost slot could be leased if those above it waited for it, staged and not folded."""
        above = step.admitted - lost - 1
        return self._s.attempts.unadmitted() + above < self._s.room()

    def restart(self, step: OpenStep, why: str) -> None:
        """RESTART(t): every sum is zeroed and every attempt of the step ended; slots are leased anew."""
        self._s.event("restart", f"step {step.step} begins again: {why}")
        for attempt in self._s.attempts:
            if attempt.step == step.step and not attempt.is_init:
                self._end(attempt, "step restarted")
        step.slots = [SlotState(attempts=slot.attempts) for slot in step.slots]
        step.reopen(0)
        step.cannot_refold.clear()
        self._s.tell_all(m.Restart(self._s.name, step.step))

    def _end(self, attempt: Attempt, why: str) -> None:
        """End an attempt that may be admitted; asynchronous, its samples are leased again."""
        if self._s.job.batch.is_asynchronous:
            self._s.attempts.move(attempt, None)
        self._granting.end(attempt, why)

    def go_on(self) -> None:
        """After a restart of the coordinator: open the steps after the one that is decided."""
        self._stepping.open_steps()

    def resume(self, shard: int) -> None:
        """A link is up again: undecided steps begin again everywhere, decisions are repeated to the shard.

        Whatever was leased and is not admitted ends: the shard may never have heard of it.
        """
        state = self._s
        if state.is_recovered:
            self._forget_earlier_terms(shard)
        for number in sorted(state.steps):
            step = state.steps[number]
            if step.phase in (Phase.OPEN, Phase.CLOSED):
                self.restart(step, f"the link of shard {shard} was interrupted")
            elif step.phase is Phase.APPLYING and step.decision is not None:
                state.tell(shard, step.decision)
                if step.totals is not None:
                    state.tell(shard, step.totals)
        for attempt in state.attempts:
            if attempt.is_init and attempt.is_staged:
                if self._stepping.is_durable(attempt):
                    state.tell(shard, m.LoadInit(state.name, attempt.id))
            elif not attempt.is_admitted:
                self._granting.end(attempt, "shard link interrupted")
        newest = state.attempts.newest()
        if state.attempts.get(newest) is None:  # its announcement and its end may both be lost
            state.tell(shard, m.EndAttempts(state.name, (newest,), "shard link interrupted"))
        self._stepping.settle_lowest()  # a step given up waits for every shard

    def _forget_earlier_terms(self, shard: int) -> None:
        """What a shard prepared for a term that did not decide it must not stand in this one's way."""
        state = self._s
        for number in range(state.version, state.version + state.job.batch.open_steps + 1):
            if number not in state.steps:
                state.tell(shard, m.Restart(state.name, number))
