"""Back to a version, as a new lineage: asked by somebody, or because a shard has lost what it held.

The coordinator looks for a checkpoint that verifies, writes the books of the new lineage to its log, and
gives its place to another one that begins with them. Once they are written it decides nothing more. A version
that was asked for and is in no checkpoint is first made one, as far as the logs still lead to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sheepfold_wire.messages as m
from sheepfold_server.core.checkpointing import Checkpointing, books_of
from sheepfold_server.core.events import (
    Answer,
    BeginAgain,
    BooksFound,
    CheckpointFound,
    FindBooks,
    FindCheckpoint,
    Refuse,
)
from sheepfold_server.core.records import Books, Rewound
from sheepfold_server.core.state import JobState
from sheepfold_server.core.steps import Phase
from sheepfold_wire.errors import BadConfig, NoCheckpoint, NotReady

REWINDS_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Wanted:
    why: str
    version: int | None
    """None: the newest."""
    caller: int | None
    request_id: str
    skip: tuple[m.SampleRange, ...]
    unfound: CheckpointFound | None = None
    """That no checkpoint holds it, once the logs are asked for it."""


class Rewinding:
    """Goes back to an earlier version of one job."""

    def __init__(self, state: JobState, checkpointing: Checkpointing) -> None:
        self._s = state
        self._checkpointing = checkpointing
        self._wanted: _Wanted | None = None
        self._books: Books | None = None
        self._record = 0
        self._lost: dict[int, str] = {}
        """Shards that are up without their state, and what of it is lost."""

    @property
    def is_over(self) -> bool:
        """Another coordinator is to take this one's place: nothing more may be decided here."""
        return self._books is not None

    def ask(self, caller: int, request: m.RewindRequest) -> None:
        """Raises BadConfig for what cannot be meant, NoCheckpoint where none are kept; else answers later."""
        state, version = self._s, request.to_version
        if not 0 <= version <= state.version:
            has = f"versions 0 to {state.version}" if state.version >= 0 else "no version yet"
            raise BadConfig(f"to_version = {version}: job {state.name} has {has}")
        if request.skip:
            self._check_skip(request)
        if not state.checkpoints.url:
            raise NoCheckpoint(
                f"job {state.name} cannot go back to version {version}: this coordinator keeps no "
                'checkpoints (--checkpoints URL); begin another job from an export (init.from = "file:PATH")'
            )
        if self._wanted is not None:
            raise NotReady(f"job {state.name} is going back to a checkpoint already; ask again in a moment")
        self._look(f"{request.author} asks for it", version, caller, request)

    def _check_skip(self, request: m.RewindRequest) -> None:
        state = self._s
        if state.job.data.mode != "indexed":
            raise BadConfig(f'skip: data.mode = "{state.job.data.mode}" has no sample stream; leave it out')
        first = state.batch.slot_range(request.to_version, 0)[0]
        for samples in request.skip:
            if samples.count < 1 or samples.start < first:
                raise BadConfig(
                    f"skip: {samples.count} samples from {samples.start} on; give 1 or more, from {first} "
                    f"on, the first that version {request.to_version} does not have"
                )

    def found(self, shard: int) -> None:
        """The shard has all that is decided, or is another process."""
        self._lost.pop(shard, None)

    def lost(self, shard: int, why: str) -> None:
        """A shard has lost its state: to the newest checkpoint, or paused where none are kept."""
        state = self._s
        self._lost[shard] = why
        if not state.checkpoints.url:
            state.pause(why)
        elif self._wanted is None:
            self._look(why, None, None, None)

    def look_again(self) -> None:
        """If the job cannot go on without a checkpoint, there may be one now."""
        if self._lost:
            self.lost(*next(iter(self._lost.items())))

    def _look(
        self, why: str, version: int | None, caller: int | None, request: m.RewindRequest | None
    ) -> None:
        state = self._s
        request_id, skip = ("", ()) if request is None else (request.request_id, request.skip)
        self._wanted = _Wanted(why, version, caller, request_id, skip)
        state.checkpoints.is_going_back = True
        state.event("lineage", f"looking for a checkpoint to go back to: {why}")
        self._find(version)

    def _find(self, version: int | None) -> None:
        state = self._s
        lineages: list[tuple[str, int | None]] = [(state.lineage, None)]
        lineages += [(ref.lineage, ref.version) for ref in reversed(state.checkpoints.ancestry)]
        state.outbox.append(FindCheckpoint(tuple(lineages), version))

    def on_found(self, event: CheckpointFound) -> None:
        """Write down that the history goes on from there, or say that it cannot."""
        wanted, state = self._wanted, self._s
        assert wanted is not None
        other = self._other_numerics(event)
        if event.found is None or event.ledger is None or other:
            if event.found is not None or not self._look_in_logs(wanted, event):
                self._give_up(wanted, event, other)
            return
        if wanted.caller is None and not self._lost:  # it came back whole meanwhile
            self._wanted, state.checkpoints.is_going_back = None, False
            return
        for damaged in event.passed_over:
            state.event("checkpoint", f"passed over: {damaged}")
        before, found = state.checkpoints.ancestry, event.found
        older = [ref.lineage for ref in before]
        kept = before[: older.index(found.lineage)] if found.lineage in older else before
        gaps = (*state.batch.gaps, *wanted.skip)
        ledger = replace(
            event.ledger,
            changes=tuple(state.config_changes),
            stop_after=state.stop_after,
            gaps=gaps,
            skipped=(*event.ledger.skipped, *(g for g in gaps if g not in event.ledger.skipped)),
        )
        self._books = replace(
            books_of(state, ledger),
            lineage=event.new_lineage,
            kept=found,
            ancestry=(*kept, found),
            why=f"from version {_newest_decided(state)} back to version {found.version}: {wanted.why}",
        )
        if wanted.request_id:
            known = m.RewindReply(event.new_lineage, found.version)
            rewinds = (*self._books.rewinds, Rewound(wanted.request_id, known))[-REWINDS_KEPT:]
            self._books = replace(self._books, rewinds=rewinds)
        self._record = state.persist(self._books)

    def _other_numerics(self, event: CheckpointFound) -> str:
        """Bits are promised within one numeric fingerprint; "" if the shards have that of the checkpoint."""
        for number, shard in enumerate(self._s.shards):
            mine = "" if shard.hello is None else shard.hello.numeric_fingerprint
            if shard.is_up and event.found is not None and mine != event.numeric_fingerprint:
                return (
                    f"; version {event.found.version} was computed with {event.numeric_fingerprint}, shard "
                    f"{number} computes with {mine}: give it the same, or let another coordinator take the "
                    "job up by `sheepfold checkpoint restore --accept-new-numerics`"
                )
        return ""

    def _look_in_logs(self, wanted: _Wanted, unfound: CheckpointFound) -> bool:
        """Whether they are asked for what no checkpoint holds: once, where they hold mean gradients."""
        has_none = self._s.durability in ("none", "checkpoint")
        if wanted.version is None or wanted.unfound is not None or has_none:
            return False
        self._wanted = replace(wanted, unfound=unfound)
        self._s.outbox.append(FindBooks(wanted.version))
        return True

    def on_books(self, event: BooksFound) -> None:
        """The shards make the version again, if they can, and it becomes a checkpoint."""
        wanted = self._wanted
        assert wanted is not None
        assert wanted.unfound is not None
        if event.books is None:
            self._give_up(wanted, wanted.unfound, f"; the log of the coordinator leads to {event.why}")
        else:
            self._s.event("lineage", f"version {wanted.version} is made again from the logs")
            self._checkpointing.save_earlier(event.books, event.config_json, self._on_saved)

    def _on_saved(self, why: str) -> None:
        wanted = self._wanted
        assert wanted is not None
        assert wanted.unfound is not None
        if why:
            self._give_up(wanted, wanted.unfound, f"; it cannot be made again from the logs: {why}")
        else:
            self._find(wanted.version)

    def _give_up(self, wanted: _Wanted, event: CheckpointFound, other: str) -> None:
        state = self._s
        self._wanted, state.checkpoints.is_going_back = None, False
        kept = ", ".join(map(str, event.there_are)) or "none"
        passed = "".join(f"; passed over: {text}" for text in event.passed_over) + other
        if wanted.caller is None:
            state.pause(f"{wanted.why}, and no checkpoint verifies (kept: {kept}){passed}")
            return
        error = NoCheckpoint(
            f"version {wanted.version} of job {state.name} is in no checkpoint that verifies; kept are "
            f"versions {kept}{passed}"
        )
        state.outbox.append(Refuse(wanted.caller, error))
        self.look_again()

    def on_persisted(self, number: int) -> None:
        """The books are durable: this history has ended."""
        books, wanted = self._books, self._wanted
        if books is None or wanted is None or number != self._record:
            return
        if wanted.caller is not None:
            reply = m.RewindReply(books.lineage, books.ledger.version)
            self._s.outbox.append(Answer(wanted.caller, reply))
        self._s.outbox.append(BeginAgain(books))


def _newest_decided(state: JobState) -> int:
    """The version that every shard has or will have, as long as nobody goes back."""
    step = state.steps.get(state.version)
    return state.version + (step is not None and step.phase is Phase.APPLYING)
