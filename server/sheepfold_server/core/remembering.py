"""A coordinator that was started anew: its state is its log, read from the beginning."""

from __future__ import annotations

from collections.abc import Iterable

import sheepfold_wire.messages as m
from sheepfold_server.core import records as r
from sheepfold_server.core.accounts import account
from sheepfold_server.core.administration import changes_of
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.ledger import give
from sheepfold_server.core.state import Geometry, JobState, Life
from sheepfold_server.core.steps import Decided, OpenStep, SlotTaken
from sheepfold_wire.ids import NOTHING_LOADED
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.optimizer import with_slices

EVENTS_PER_TERM = 1_000_000
"""Numbers of events grow over terms; the events themselves are not kept."""


class Remembering:
    """Takes the records of earlier terms, in order.

    The newest decision may not have reached every shard: its step is left open, decided, and is published
    once all shards say that they have applied it. Whatever was not decided has to begin again.
    """

    def __init__(self, state: JobState, granting: Granting) -> None:
        self._s = state
        self._granting = granting
        self._newest: OpenStep | None = None
        self._settled: set[int] = set()
        """Asynchronous: places in the sample stream that steps were decided of."""
        self._pieces: list[tuple[int, int, int, int]] = []
        self._books: r.Books | None = None
        self.answers: dict[str, m.ConfigChangeReply | m.RewindReply] = {}
        """Answers of calls that were told already, by call and request id."""

    def take_all(self, records: Iterable[r.CoordinatorRecord]) -> None:
        """All records; JobCreated, the first, has been used to make the coordinator."""
        state = self._s
        state.history.count = state.term * EVENTS_PER_TERM
        for record in needed(list(records)):
            self._take(record)
        self._granting.recover(self._settled)
        if state.files is not None:
            state.files.recover(self._pieces)
        if state.life is Life.DECLARED and state.geometry is not None:
            state.life = Life.OPENING
        state.is_recovered = True
        if self._books is not None and self._books.why and self._newest is None:
            state.event("lineage", f"the job goes on as lineage {state.lineage}, {self._books.why}")
            return
        if self._newest is not None:
            number = self._newest.step
            told = f"step {number}, the newest that is decided, is repeated to the shards"
        else:
            told = "no step was decided yet"
        state.event("restart", f"the coordinator was started anew, term {state.term}: {told}")

    def _take(self, record: r.CoordinatorRecord) -> None:
        state = self._s
        match record:
            case r.JobCreated():
                pass
            case r.Books():
                self._begin_at(record)
            case r.CheckpointKept(kept):
                state.checkpoints.kept, state.checkpoints.kept_at = kept, state.now
            case r.ModelGiven(text):
                manifest = with_slices(Manifest.from_json(text), state.job.optimizer.slices)
                state.geometry = Geometry.of(manifest, len(state.shards), state.job)
            case r.KernelChosen(kernel):
                state.kernel = kernel
            case r.InitChosen(attempt):
                self._adopt_init(attempt)
            case r.ConfigChanged(first, text, _, request):
                state.config.change(first, changes_of(text))
                state.config_changes.append(record)
                if request:
                    self.answers[f"change/{request}"] = m.ConfigChangeReply(first)
            case r.Paused(why):
                state.life, state.why = Life.PAUSED, why
            case r.Woken():
                state.life, state.why = Life.DECLARED, ""
            case r.StopAsked(after, why):
                state.stop_after = after
                if why:
                    state.life, state.why = Life.ENDED, why
            case r.Evaluated(request):
                state.evaluations.take(request, state.job.stop, request.version)
            case r.SamplesSkipped(pieces):
                if state.files is not None:
                    state.files.skip(pieces)
                    self._pieces += pieces
            case Decided():
                self._decide(record)
            case r.TotalsKnown(totals):
                if self._newest is not None and totals.step == self._newest.step:
                    self._newest.totals = totals

    def _begin_at(self, books: r.Books) -> None:
        state, found = self._s, books.ledger
        give(found, state, self._granting)
        state.geometry = Geometry.of(Manifest.from_json(books.manifest_json), len(state.shards), state.job)
        state.kernel = books.kernel
        state.checkpoints.kept, state.checkpoints.kept_at = books.kept, state.now
        state.checkpoints.ancestry = books.ancestry
        if books.paused:
            state.life, state.why = Life.PAUSED, books.paused
        self._settled = set(range(found.sequences)).difference(found.returned)
        self.answers |= {
            f"change/{change.request_id}": m.ConfigChangeReply(change.from_step)
            for change in found.changes
            if change.request_id
        }
        state.checkpoints.rewinds = books.rewinds
        self.answers |= {f"rewind/{known.request_id}": known.reply for known in books.rewinds}
        self._books = books

    def _adopt_init(self, key: m.AttemptId) -> None:
        attempt = Attempt(key, "", True, None, 0, -1, self._s.now, self._s.now, True, is_staged=True)
        self._s.attempts.adopt(attempt)

    def _decide(self, record: Decided) -> None:
        """The one before is applied everywhere: a step is decided only after that."""
        state, number = self._s, record.commit.step
        if self._newest is None:
            for attempt in state.attempts:
                state.attempts.commit(attempt, is_skip=False)
        else:
            account(state, self._newest, self._granting)
        attempts = [self._adopt(number, index, taken) for index, taken in enumerate(record.slots)]
        step = OpenStep.recovered(record, state.batch.slots(number), attempts, state.now)
        state.version, state.steps[number] = number, step
        self._newest = step
        self._settled.add(number if record.sequence is None else record.sequence)

    def _adopt(self, number: int, index: int, taken: SlotTaken) -> Attempt:
        state = self._s
        base, now = taken.facts.base_version, state.now
        attempt = Attempt(
            taken.attempt, taken.worker, False, number, index, base, now, now, False, facts=taken.facts
        )
        attempt.is_staged = attempt.is_admitted = True
        state.attempts.adopt(attempt)
        if state.files is not None:
            state.files.adopt(taken.attempt, taken.pieces)
            self._pieces += taken.pieces
        return attempt


def settle(state: JobState, granting: Granting) -> None:
    """What was remembered as decided counts as applied on every shard."""
    for _, step in sorted(state.steps.items()):
        account(state, step, granting)
    if state.version == NOTHING_LOADED:
        for attempt in state.attempts:
            state.attempts.commit(attempt, is_skip=False)
        state.version = 0


def needed(records: list[r.CoordinatorRecord]) -> list[r.CoordinatorRecord]:
    """From the newest books on: what is said of the present lineage, and no more than that."""
    books = [index for index, record in enumerate(records) if isinstance(record, r.Books)]
    return records[books[-1] :] if books else records


def identity(records: list[r.CoordinatorRecord]) -> tuple[str, str, int]:
    """(configuration as created, lineage, shard count) of the job whose log this is.

    Raises LookupError for a log that does not begin with a job.
    """
    first = needed(records)[0]
    match first:
        case r.JobCreated():
            return first.config_json, first.lineage, first.shard_count
        case r.Books():
            return first.ledger.config_json, first.lineage, first.shard_count
    raise LookupError(f"the log of a job begins with {type(first).__name__}")
