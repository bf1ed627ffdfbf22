"""When the state is kept beyond the logs: due, asked of every shard between two steps, stored, or failed.

The order of commits is the cut: SAVE goes out while no step is decided, so that on every shard it comes
before the commit of the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import sheepfold_wire.messages as m
from sheepfold_server.core import ledger
from sheepfold_server.core.events import Answer, IndexStored, Refuse, StoreIndex
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.records import Books, CheckpointKept, Ledger
from sheepfold_server.core.state import JobState, Life
from sheepfold_server.core.steps import Phase
from sheepfold_wire.errors import CheckpointFailed, NotReady, SheepfoldError
from sheepfold_wire.ids import NOTHING_LOADED

RETRY_SECONDS = 30.0
"""After one that failed, unless somebody asks."""
SECONDS_MAX = 3_600.0
"""A shard that has not stored its part by then is not waited for."""


@dataclass(slots=True)
class _Save:
    """One that is being made."""

    books: Books
    config_json: str
    began_at: float
    callers: list[int]
    tell: Callable[[str], None] | None = None
    """Of an earlier version, to go back to: why it cannot be; "" once it is kept."""
    parts: dict[int, m.PartSaved] = field(default_factory=dict)


class Checkpointing:
    """Makes checkpoints of one job, one at a time."""

    def __init__(self, state: JobState, granting: Granting) -> None:
        self._s = state
        self._granting = granting
        self._save: _Save | None = None
        self._asked: list[int] = []
        """Callers that wait for a checkpoint of the newest version."""
        self._not_before = 0.0
        self.retry_seconds = RETRY_SECONDS

    def ask(self, caller: int) -> None:
        """Held until a checkpoint of the version that is the newest now, or of a later one, is stored."""
        state = self._s
        if not state.checkpoints.url:
            raise CheckpointFailed(
                "this coordinator keeps no checkpoints; start it with --checkpoints URL, a directory or "
                "store that all shards reach"
            )
        if state.version == NOTHING_LOADED:
            raise NotReady(f"job {state.name} has no version yet; ask again once it is initialised")
        save = self._save
        if save is not None and save.tell is None and save.books.ledger.version == state.version:
            save.callers.append(caller)
        else:
            self._asked.append(caller)

    def consider(self) -> None:
        """After every event: begin one if it is due, or asked for, and no step is being applied."""
        state = self._s
        if self._save is not None:
            if state.checkpoints.is_going_back and self._save.tell is None:
                self._fail("the job is to go back to an earlier one")
            elif state.now - self._save.began_at > SECONDS_MAX:
                self._fail(f"it has taken more than {SECONDS_MAX:.0f} s")
            return
        if not state.checkpoints.url or state.version == NOTHING_LOADED or not state.all_ready():
            return
        if state.checkpoints.is_going_back:
            return
        if state.checkpoints.kept_at is None:
            state.checkpoints.kept_at = state.now
        if any(step.phase in (Phase.DECIDED, Phase.APPLYING) for step in state.steps.values()):
            return
        kept = state.checkpoints.kept
        is_kept = kept is not None and (kept.version, kept.lineage) == (state.version, state.lineage)
        if self._asked and kept is not None and is_kept:
            self._answer(self._asked, m.CheckpointReply(kept.version))
            self._asked = []
        elif self._asked or self._is_due():
            self._begin()

    def _is_due(self) -> bool:
        state, rule = self._s, self._s.job.checkpoint
        kept = state.checkpoints.kept
        newest = NOTHING_LOADED if kept is None else kept.version
        if state.now < self._not_before:
            return False
        if kept is None or kept.lineage != state.lineage:
            return True
        if state.version <= newest or state.life is Life.ENDED:
            return state.version > newest
        by_steps = 0 < rule.every_steps <= state.version - newest
        since = state.now if state.checkpoints.kept_at is None else state.checkpoints.kept_at
        return by_steps or 0 < rule.every_minutes * 60 <= state.now - since

    def _begin(self) -> None:
        state = self._s
        books = books_of(state, ledger.take(state, self._granting))
        state.persist(books)
        self._save = _Save(books, state.resolved_json, state.now, self._asked)
        self._asked = []
        state.tell_all(m.SaveCheckpoint(state.name, state.version))

    def save_earlier(self, books: Books, config_json: str, tell: Callable[[str], None]) -> None:
        """Of a version that is published, while the job is going back to it. Shards make it from their logs.

        What is kept as the newest stays that, and nothing older is removed for it: both would be of a history
        that is about to end. `tell` is called with why it cannot be, or with "" once it is kept.
        """
        state = self._s
        for number, shard in enumerate(state.shards):
            if not shard.is_ready:
                tell(f"shard {number} is not there; ask again once it is")
                return
        self._save = _Save(books, config_json, state.now, [], tell)
        state.tell_all(m.SaveCheckpoint(state.name, books.ledger.version))

    def on_part(self, shard: int, report: m.PartSaved) -> None:
        """One shard has stored its part, or cannot."""
        save, state = self._save, self._s
        if save is None or report.version != save.books.ledger.version:
            return  # given up since
        if report.why:
            self._fail(f"shard {shard}: {report.why}")
            return
        save.parts[shard] = report
        if len(save.parts) < len(state.shards):
            return
        hello = state.shards[0].hello
        state.outbox.append(
            StoreIndex(
                books=save.books,
                parts=tuple(part for _, part in sorted(save.parts.items())),
                term=state.term,
                applied_steps=save.books.ledger.version - save.books.ledger.steps_skipped,
                config_json=save.config_json,
                numeric_fingerprint="" if hello is None else hello.numeric_fingerprint,
                keep=state.job.checkpoint.keep if save.tell is None else None,
            )
        )

    def on_stored(self, event: IndexStored) -> None:
        """The index is in the store, or cannot be: only now does the checkpoint exist."""
        save, state = self._save, self._s
        if save is None or event.version != save.books.ledger.version:
            return
        if event.why:
            self._fail(event.why)
            return
        self._save = None
        if save.tell is not None:
            save.tell("")
            return
        kept = m.CheckpointRef(state.lineage, event.version, state.term)
        state.checkpoints.kept, state.checkpoints.kept_at = kept, state.now
        state.persist(CheckpointKept(kept))
        seconds = state.now - save.began_at
        state.event("checkpoint", f"version {event.version} is kept, which took {seconds:.1f} s")
        self._answer(save.callers, m.CheckpointReply(event.version))

    def on_shard_down(self, shard: int) -> None:
        """What it was storing may never be told."""
        if self._save is not None and shard not in self._save.parts:
            self._fail(f"the link to shard {shard} is down")

    def _fail(self, why: str) -> None:
        save, state = self._save, self._s
        assert save is not None
        if save.tell is not None:
            self._save = None
            save.tell(why)
            return
        self._save, self._not_before = None, state.now + self.retry_seconds
        told = f"no checkpoint of version {save.books.ledger.version}: {why}"
        state.event("checkpoint", told)
        then = "nothing is computed before one is kept" if state.awaits_checkpoint() else "training goes on"
        self._answer(save.callers, CheckpointFailed(f"{told}; {then}, older ones are as they were"))

    def _answer(self, callers: list[int], answer: m.CheckpointReply | SheepfoldError) -> None:
        for caller in callers:
            if isinstance(answer, SheepfoldError):
                self._s.outbox.append(Refuse(caller, answer))
            else:
                self._s.outbox.append(Answer(caller, answer))


def books_of(state: JobState, accounts: Ledger) -> Books:
    """The whole job, of its present lineage."""
    assert state.geometry is not None
    return Books(
        lineage=state.lineage,
        shard_count=len(state.shards),
        kernel=state.kernel,
        manifest_json=state.geometry.manifest.to_json(),
        ledger=accounts,
        kept=state.checkpoints.kept,
        ancestry=state.checkpoints.ancestry,
        rewinds=state.checkpoints.rewinds,
        paused=state.why if state.life is Life.PAUSED else "",
    )
