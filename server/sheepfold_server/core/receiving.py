"""Parts on their way in: announced, received, staged or refused, and the end of those that never count."""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.headers import ShardJob, check_header, check_part
from sheepfold_server.core.parts import Part, Parts, PartState
from sheepfold_server.core.sums import Sum
from sheepfold_wire.errors import AttemptNotAnnounced, NonFinite, SheepfoldError
from sheepfold_wire.ids import AttemptId

EARLY_MAX = 64
"""Pushes held for their announcement; a call each, so as many as the shell serves at once."""


class Receiving:
    """The pushes of one job on one shard. `version`: the newest that is applied here."""

    def __init__(self, job: ShardJob, parts: Parts, sums: dict[int, Sum]) -> None:
        self._job, self._parts, self._sums = job, parts, sums
        self._early: dict[int, e.PushOpened] = {}
        """Pushes of attempts that are not announced yet, by token."""

    def expect(self, command: m.Expect, version: int) -> list[e.ShardEffect]:
        """A lease was given out; whoever pushed it already is taken now."""
        # There is one init lease at a time: the end of the one before was lost with a link.
        ended = self._drop(self._parts.of_init() if command.is_init else [])
        self._parts.expect(command.attempt, command.is_init, command.step)
        return ended + self._take_early(version)

    def end(self, command: m.EndAttempts, version: int) -> list[e.ShardEffect]:
        """These never count; what is admitted has its end with its step."""
        self._parts.note_announced(command.attempts)
        ended = self._drop([key for key in command.attempts if not self._parts.is_admitted(key)])
        return ended + self._take_early(version)

    def _drop(self, attempts: list[AttemptId]) -> list[e.ShardEffect]:
        held = self._parts.drop(attempts)
        return [e.DropParts(held)] if held else []

    def _take_early(self, version: int) -> list[e.ShardEffect]:
        taken: list[e.ShardEffect] = []
        for token, event in list(self._early.items()):
            if self._parts.is_announced(event.header.attempt):
                del self._early[token]
                taken += self.open(event, version)
        return taken

    def open(self, event: e.PushOpened, version: int) -> list[e.ShardEffect]:
        """Receive, answer or refuse a push on its header."""
        try:
            check_header(self._job, event.header)
            part = self._parts.find(event.header.attempt, version)
            check_part(self._job, part, event.header)
        except AttemptNotAnnounced as error:
            return self._wait_for_announcement(event, error)
        except SheepfoldError as error:
            return [e.RefusePush(event.token, error)]
        if part.state is not PartState.EXPECTED:
            return [e.AnswerPush(event.token, is_duplicate=True)]
        if event.header.is_ahead:
            return [*self._evict(self._parts.hold(part)), e.ReceiveAhead(event.token, part.attempt)]
        evicted = self._parts.receive(part, event.token, event.header)
        return [*self._evict(evicted), e.ReceiveBody(event.token, part.attempt)]

    def _wait_for_announcement(self, event: e.PushOpened, error: AttemptNotAnnounced) -> list[e.ShardEffect]:
        """A worker may be quicker than the coordinator's word of its lease: hold its header for a moment."""
        if len(self._early) >= EARLY_MAX:
            return [e.RefusePush(event.token, error)]
        self._early[event.token] = event
        return []

    def _evict(self, part: Part | None) -> list[e.ShardEffect]:
        """Raw bytes of a folded slot make room; its step can then only be restarted, not refolded."""
        if part is None:
            return []
        effects: list[e.ShardEffect] = [e.DropParts((part.attempt,))]
        found = self._sums.get(part.step if part.step is not None else -1)
        if found is not None and found.can_refold:
            found.can_refold = False
            effects.append(e.Report(m.Folded(self._job.job, found.step, found.folded, False)))
        return effects

    def receive(self, event: e.PushReceived) -> list[e.ShardEffect]:
        """The body is whole: staged, unless its attempt has ended or it is not finite."""
        part = self._parts.of_token(event.token)
        if part is None or part.header is None:
            return [e.RefusePush(event.token, self._parts.ended_error())]
        job, check = self._job.job, event.check
        if check.nonfinite_count:
            self._parts.refused(part)
            text = f"{check.nonfinite_count} elements of tensor {check.nonfinite_tensor} are NaN or infinite"
            refused = m.PartRefused(job, part.attempt, check.nonfinite_tensor, check.nonfinite_count)
            return [
                e.DropParts((part.attempt,)),
                e.Report(refused),
                e.RefusePush(event.token, NonFinite(f"{text}; the slot is leased again")),
            ]
        self._parts.staged(part)
        digest, facts = part.header.payload_digest, part.header.facts
        staged = m.Staged(job, part.attempt, digest, facts, check.sum_of_squares)
        answer = e.AnswerPush(event.token, is_duplicate=False)
        return [answer, e.LogInit(staged)] if part.is_init else [e.Report(staged), answer]

    def logged(self, event: e.InitLogged) -> list[e.ShardEffect]:
        """Initial weights count as staged once this shard cannot lose them."""
        return [e.Report(event.staged)] if self._parts.is_staged_init(event.staged.attempt) else []

    def change_term(self, job: ShardJob) -> None:
        """Another term of the coordinator: what is on its way was leased by the one before."""
        self._job = job

    def break_off(self, token: int) -> None:
        """The stream broke, or its caller has gone; the same attempt may be sent again."""
        self._early.pop(token, None)
        self._parts.broken(token)
