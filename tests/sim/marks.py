"""Coverage marks: rare states that a campaign must have reached, or it has shown nothing."""

from __future__ import annotations

from collections import Counter

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_wire.errors import CheckpointFailed, SheepfoldError

MARKS = (
    "attempt expired",
    "attempt superseded",
    "bytes ahead gone",
    "bytes ahead used",
    "clock of the coordinator went back",
    "command stuck in a half-open link",
    "commit sent again",
    "checkpoint asked for and kept",
    "checkpoint asked for and failed",
    "checkpoint kept",
    "coordinator killed",
    "coordinator killed with a step decided",
    "damaged checkpoint passed over",
    "disk of a shard lost",
    "duplicate answered",
    "expected slot given",
    "folded bytes evicted",
    "init lease again",
    "initial weights found in the log",
    "init sent again",
    "job paused",
    "late push refused",
    "lease answered again",
    "link resumed with a step open",
    "non-finite refused",
    "norms exchanged",
    "opened for a link that is over",
    "part lost",
    "prepared sum found in the log",
    "pull joined from two versions",
    "pull waited",
    "push before its announcement",
    "push in progress",
    "refold",
    "report of a replaced link",
    "report stuck in a half-open link",
    "restart",
    "shard killed",
    "shard killed while a step was applied",
    "shards differ in version",
    "skip by loss scale",
    "skip by non-finite sum",
    "skip by refusals",
    "stale answer dropped",
    "state restored",
    "straggler leased twice",
    "version between checkpoints made again",
    "version between checkpoints wanted",
    "version gone",
    "went back from a lineage that went back",
    "went back to a checkpoint",
    "window full",
    "worker forgotten",
    "worker gone",
)

_OF_PUSH = {
    "STEP_CLOSED": "late push refused",
    "LEASE_ENDED": "late push refused",
    "PUSH_IN_PROGRESS": "push in progress",
    "NON_FINITE": "non-finite refused",
}
_OF_END = {"superseded": "attempt superseded", "expired": "attempt expired", "worker gone": "worker gone"}


def _kind_of_skip(command: m.Commit, has_overflowed: bool) -> str:
    if has_overflowed:
        return "skip by loss scale"
    return "skip by non-finite sum" if command.map_digest else "skip by refusals"


class Marks(Counter[str]):
    """Counts by name; a name outside MARKS is a mistake of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.faults = 0
        """Injected."""
        self._guesses: set[int] = set()
        """Places in the sample stream that some worker was told to expect."""
        self._said: set[object] = set()
        """Commands and leases given out before, to see what is repeated."""

    def hit(self, name: str) -> None:
        assert name in MARKS, name
        self[name] += 1

    def of_refusal(self, error: SheepfoldError) -> None:
        mark = _OF_PUSH.get(error.reason)
        if mark is not None:
            self.hit(mark)

    def _hit_if_repeated(self, name: str, what: object) -> None:
        if what in self._said:
            self.hit(name)
        self._said.add(what)

    def of_answer(self, answer: object) -> None:
        if isinstance(answer, m.CheckpointReply):
            self.hit("checkpoint asked for and kept")
        elif isinstance(answer, CheckpointFailed):
            self.hit("checkpoint asked for and failed")
        if isinstance(answer, m.LeaseReply) and answer.lease is not None:
            self._hit_if_repeated("lease answered again", answer.lease.attempt)
            if answer.lease.stride and answer.lease.sample_start in self._guesses:
                self.hit("expected slot given")
            self._guesses.add(answer.lease.sample_start + answer.lease.stride)

    def of_command(self, shard: int, command: m.ShardCommand, coordinator: Coordinator) -> None:
        match command:
            case m.LoadInit():
                self._hit_if_repeated("init sent again", (shard, "init", command.attempt))
            case m.Expect(is_init=True):
                if command.attempt.counter > 1:
                    self.hit("init lease again")
            case m.Expect():
                attempts = coordinator._state.attempts
                leased = attempts.get(command.attempt)
                if leased is not None and len(attempts.of_slot(leased.step, leased.slot)) > 1:
                    self.hit("straggler leased twice")
            case m.EndAttempts():
                mark = _OF_END.get(command.reason)
                if mark is not None:
                    self.hit(mark)
            case m.Refold():
                self.hit("refold")
            case m.Restart():
                self.hit("restart")
            case m.Commit():
                self._hit_if_repeated("commit sent again", (shard, "commit", command.step))
                if command.is_skip:
                    step = coordinator._state.steps.get(command.step)
                    self.hit(_kind_of_skip(command, step is not None and step.overflowed))
            case m.Totals():
                self.hit("norms exchanged")

    def of_report(self, report: m.ShardReport) -> None:
        match report:
            case m.PartLost():
                self.hit("part lost")
            case m.Folded(can_refold=False):
                self.hit("folded bytes evicted")

    def of_coordinator(self, event: e.CoordinatorEvent, coordinator: Coordinator) -> None:
        state = coordinator._state
        if (
            state.geometry is not None
            and len(state.attempts._live)
            and state.unfolded() >= state.window() - 1
        ):
            self.hit("window full")
        if isinstance(event, e.ShardUp) and event.is_resumed and state.steps:
            self.hit("link resumed with a step open")
