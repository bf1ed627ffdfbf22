"""Safeguards against what is over, or was said already, taken away: as in `ablations`."""

from __future__ import annotations

from dataclasses import replace

from tests.sim.hosts import ShardHost
from tests.sim.links import Stream

import sheepfold_wire.messages as m
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.parts import PartState
from sheepfold_server.core.shard import Shard
from sheepfold_server.core.stepping import Stepping


class HearsReplacedLinks(Stream):
    """What an earlier process of a shard said, or the same one before its link broke, is taken as said now.

    The shell's part of the incarnations: `Fleet.report`.
    """

    def is_heard(self, epoch: int) -> bool:
        return True


class AnswersOldLinks(ShardHost):
    """A shard that has opened a job says so, though a later link has asked since and was answered.

    The shell's part of it: `ShardProcess._open_new`.
    """

    def is_newest(self, command: m.OpenJob) -> bool:
        return True


class ObeysAnyTerm(Shard):
    """The word of a coordinator of an earlier term counts, though a later one has spoken."""

    def _on_open(self, term: int) -> None:
        if term < self.job.term:
            self._change_term(term)
        super()._on_open(term)


class FillsSlotsAgain(Stepping):
    """The attempt of a slot that is staged last takes its place, also when the slot is admitted or closed."""

    def _staged_everywhere(self, attempt: Attempt) -> None:
        step = None if attempt.step is None else self._s.steps[attempt.step]
        if step is None or attempt.is_init:
            super()._staged_everywhere(attempt)
            return
        self._s.attempts.stage(attempt)
        if attempt.slot < step.admitted:
            self._s.attempts.admit(attempt)
        step.slots[attempt.slot].winner = attempt
        self._admit(step)


class PicksAttempts(Shard):
    """A slot is filled with the part of its step that this shard has staged first."""

    def _on_admit(self, command: m.Admit) -> None:
        staged = (
            part.attempt
            for part in self._parts._parts.values()
            if part.step == command.step and part.state is PartState.STAGED
        )
        super()._on_admit(replace(command, attempt=next(staged, command.attempt)))
