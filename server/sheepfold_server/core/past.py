"""A job as its coordinator's log tells it, for somebody who is not its coordinator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.events import BooksFound
from sheepfold_server.core.records import (
    Books,
    CoordinatorRecord,
    InitChosen,
    JobCreated,
    ShardRecord,
    TotalsKnown,
)
from sheepfold_server.core.remembering import identity, needed
from sheepfold_server.core.steps import Decided
from sheepfold_wire.ids import NOTHING_LOADED
from sheepfold_wire.job import job_from_json

Decision = m.LoadInit | m.Commit | m.Totals


@dataclass(frozen=True, slots=True)
class Past:
    """The present lineage of a job."""

    command: m.OpenJob
    """What a shard was told to open it."""
    decided: tuple[Decision, ...]
    """In their order; what a checkpoint has cut off is in the shards' logs alone."""
    version: int
    """What the newest decision makes."""

    def contradicted_by(self, log: Iterable[ShardRecord]) -> m.Commit | None:
        """A decision noted by a shard that is another one here."""
        commits = {each.step: each for each in self.decided if isinstance(each, m.Commit)}
        notes = (record for record in log if isinstance(record, m.Commit))
        return next((note for note in notes if commits.get(note.step, note) != note), None)


def books_at(records: Sequence[CoordinatorRecord], version: int) -> BooksFound:
    """What the coordinator knew when `version`, which was published, was the newest of the present lineage.

    The books begin with the newest that the log has at or before it, and take in what came after them until
    the step from that version on was decided.
    """
    if not records:
        return BooksFound(None, "", "no version: it is kept in no directory (--dir)")
    config, lineage, shard_count = identity(list(records))
    starts = [(_first(record, lineage), index) for index, record in enumerate(records)]
    fit = [index for first, index in starts if NOTHING_LOADED < first <= version]
    if not fit:
        oldest = min(first for first, _ in starts if first > NOTHING_LOADED)
        return BooksFound(None, "", f"version {oldest} and later ones")
    behind = records[fit[-1] :]
    end = next((i for i, each in enumerate(behind) if _step(each) >= version), len(behind))
    core = Coordinator(job_from_json(config), shard_count, 0, lineage)
    core.remember(behind[:end])
    return core.remembered()


def _first(record: CoordinatorRecord, lineage: str) -> int:
    """The version that a log which begins with this record begins with."""
    match record:
        case JobCreated() if record.lineage == lineage:
            return 0
        case Books() if record.lineage == lineage:
            return record.ledger.version
    return NOTHING_LOADED


def _step(record: CoordinatorRecord) -> int:
    """That was decided."""
    return record.commit.step if isinstance(record, Decided) else NOTHING_LOADED


def past_of(records: Sequence[CoordinatorRecord]) -> Past | None:
    """None of a job that has no model yet. Raises LookupError for a log that does not begin with a job."""
    if not records:
        return None
    config, lineage, shard_count = identity(list(records))
    core = Coordinator(job_from_json(config), shard_count, 0, lineage)
    core.remember(records)
    command = core.open_job
    if command is None:
        return None
    decided: list[Decision] = []
    version: int = NOTHING_LOADED
    for record in needed(list(records)):
        match record:
            case Books():
                version = record.ledger.version
            case InitChosen(attempt):
                decided.append(m.LoadInit(command.job, attempt))
                version = 0
            case Decided():
                decided.append(record.commit)
                version = record.commit.step + 1
            case TotalsKnown(totals):
                decided.append(totals)
    return Past(command, tuple(decided), version)
