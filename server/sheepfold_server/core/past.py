"""A job as its coordinator's log tells it, for somebody who is not its coordinator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.records import Books, CoordinatorRecord, InitChosen, ShardRecord, TotalsKnown
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
