"""Back to a checkpoint, as a new lineage: asked by somebody, or because a shard has lost what it held.

The coordinator looks for a checkpoint that verifies, writes the books of the new lineage to its log, and
gives its place to another one that begins with them. Once they are written it decides nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sheepfold_wire.messages as m
from sheepfold_server.core.checkpointing import books_of
from sheepfold_server.core.events import Answer, BeginAgain, CheckpointFound, FindCheckpoint, Refuse
from sheepfold_server.core.records import Books
from sheepfold_server.core.state import JobState, Life
from sheepfold_server.core.steps import Phase
from sheepfold_wire.errors import BadConfig, NoCheckpoint, NotReady


@dataclass(frozen=True, slots=True)
class _Wanted:
    why: str
    version: int | None
    """None: the newest."""
    caller: int | None
    request_id: str
    paused: str
    """Why the job was paused before."""
    skip: tuple[m.SampleRange, ...]


class Rewinding:
    """Goes back to an earlier version of one job."""

    def __init__(self, state: JobState) -> None:
        self._s = state
        self._wanted: _Wanted | None = None
        self._books: Books | None = None
        self._record = 0
        self._lost = ""
        """Why a shard's state is lost, if it is."""

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

    def lost(self, why: str) -> None:
        """A shard has lost its state: to the newest checkpoint, or paused where none are kept."""
        state, self._lost = self._s, why
        if not state.checkpoints.url:
            state.pause(why)
        elif self._wanted is None:
            self._look(why, None, None, None)

    def look_again(self) -> None:
        """The job is resumed: if it cannot go on without a checkpoint, there may be one now."""
        if self._lost:
            self.lost(self._lost)

    def _look(
        self, why: str, version: int | None, caller: int | None, request: m.RewindRequest | None
    ) -> None:
        state = self._s
        paused = state.why if state.life is Life.PAUSED else ""
        request_id, skip = ("", ()) if request is None else (request.request_id, request.skip)
        self._wanted = _Wanted(why, version, caller, request_id, paused, skip)
        state.event("lineage", f"looking for a checkpoint to go back to: {why}")
        lineages: list[tuple[str, int | None]] = [(state.lineage, None)]
        lineages += [(ref.lineage, ref.version) for ref in reversed(state.checkpoints.ancestry)]
        state.outbox.append(FindCheckpoint(tuple(lineages), version))

    def on_found(self, event: CheckpointFound) -> None:
        """Write down that the history goes on from there, or say that it cannot."""
        wanted, state = self._wanted, self._s
        assert wanted is not None
        if event.found is None or event.ledger is None:
            self._wanted = None
            self._none(wanted, event)
            return
        for damaged in event.passed_over:
            state.event("checkpoint", f"passed over: {damaged}")
        before, found = state.checkpoints.ancestry, event.found
        older = [ref.lineage for ref in before]
        kept = before[: older.index(found.lineage)] if found.lineage in older else before
        ledger = replace(
            event.ledger,
            changes=tuple(state.config_changes),
            stop_after=state.stop_after,
            gaps=(*state.batch.gaps, *wanted.skip),
            skipped=(*event.ledger.skipped, *wanted.skip),
        )
        self._books = replace(
            books_of(state, ledger),
            lineage=event.new_lineage,
            kept=found,
            ancestry=(*kept, found),
            paused=wanted.paused,
            why=f"from version {_newest_decided(state)} back to version {found.version}: {wanted.why}",
            request_id=wanted.request_id,
        )
        self._record = state.persist(self._books)

    def _none(self, wanted: _Wanted, event: CheckpointFound) -> None:
        state = self._s
        kept = ", ".join(map(str, event.there_are)) or "none"
        passed = "".join(f"; passed over: {text}" for text in event.passed_over)
        if wanted.caller is None:
            state.pause(f"{wanted.why}, and no checkpoint verifies (kept: {kept}){passed}")
            return
        error = NoCheckpoint(
            f"version {wanted.version} of job {state.name} is in no checkpoint that verifies; kept are "
            f"versions {kept}{passed}"
        )
        state.outbox.append(Refuse(wanted.caller, error))

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
