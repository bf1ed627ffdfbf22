"""Jobs that were deleted: written down before anything is removed, and kept until every shard has removed it.

A file beside the coordinator's numbers, written whole. It also answers a call that is made again, and whoever
still asks for the job.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sheepfold_wire.messages as m
from sheepfold_server.core.events import Delete
from sheepfold_server.shell.data_dir import DataDir, write_whole
from sheepfold_server.shell.start import StartError
from sheepfold_server.storage.log.errors import LogMismatch
from sheepfold_server.storage.log.values import Values
from sheepfold_wire.errors import JobDeleted, PreconditionError

log = logging.getLogger(__name__)

TOMBSTONES = "deleted.jsonl"
REMOVED_KEPT = 1_024
"""Of those that nothing is left of, the newest."""
PENDING_MAX = 1_024
"""That a shard which is away has yet to hear of."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One deleted job."""

    job: str
    lineages: tuple[str, ...]
    """The last one first: no other tombstone has it."""
    request_id: str
    author: str
    deleted_at: float
    """Unix time, seconds."""
    reply: m.DeleteJobReply
    is_removed: bool = False
    """By every shard."""

    @classmethod
    def of(cls, deleted: Delete) -> Tombstone:
        asked = deleted.request
        return cls(asked.job, deleted.lineages, asked.request_id, asked.author, time.time(), deleted.reply)

    def command(self, term: int) -> m.RemoveJob:
        return m.RemoveJob(self.job, term, self.lineages)

    def error(self) -> JobDeleted:
        """What whoever calls for the job is told."""
        at, told = datetime.fromtimestamp(self.deleted_at, UTC), self.reply
        if told.kept_version >= 0:
            then = (
                f"version {told.kept_version} is kept in {told.checkpoint_url}: "
                f"`sheepfold checkpoint restore {self.job}` takes it up"
            )
        else:
            then = "nothing of it is kept; create another with `sheepfold job create -f job.toml`"
        return JobDeleted(
            f"job {self.job} was deleted by {self.author or 'somebody'} on {at:%Y-%m-%d %H:%M:%S} UTC; {then}"
        )


VALUES: Values[Tombstone] = Values((Tombstone,))


class Tombstones:
    """Those of one coordinator. Thread-safe."""

    def __init__(self, directory: DataDir | None, shard_count: int) -> None:
        """Without a directory they end with the process. Raises StartError for a file that cannot be read."""
        self._file = None if directory is None else directory.path / TOMBSTONES
        self._shards = range(shard_count)
        self._lock = threading.Lock()
        self._all = [] if self._file is None or not self._file.exists() else self._read()
        """Oldest first."""
        self._waits_for = {
            stone.lineages[0]: set(self._shards) for stone in self._all if not stone.is_removed
        }
        """Shards that have not said that they hold nothing, by last lineage."""

    def _read(self) -> list[Tombstone]:
        assert self._file is not None
        try:
            return [VALUES.decode(line) for line in self._file.read_text("ascii").splitlines()]
        except (OSError, ValueError, TypeError, KeyError, RecursionError, LogMismatch) as error:
            raise StartError(
                f"{self._file} is not as it was written ({error}); restore it from a copy, or put it "
                "elsewhere: without it, jobs whose deletion was not finished are there again"
            ) from None

    def add(self, stone: Tombstone) -> None:
        """The job is deleted when it returns. Raises OSError, PreconditionError, and nothing is changed."""
        with self._lock:
            if len(self._waits_for) >= PENDING_MAX:
                away = sorted(set().union(*self._waits_for.values()))
                raise PreconditionError(
                    f"{len(self._waits_for)} deleted jobs are not removed on shards {away}; bring these up"
                )
            self._save([*self._all, stone])
            self._waits_for[stone.lineages[0]] = set(self._shards)

    def removed(self, shard: int, report: m.JobRemoved) -> None:
        """That shard holds nothing of it. What cannot be written down is asked again after a restart."""
        with self._lock:
            waits_for = self._waits_for.get(report.lineage)
            if waits_for is None:
                return
            waits_for.discard(shard)
            if waits_for:
                return
            del self._waits_for[report.lineage]
            log.info("job %s: nothing of the deleted one is left on any shard", report.job)
            try:
                self._save(
                    [
                        replace(stone, is_removed=stone.is_removed or stone.lineages[0] == report.lineage)
                        for stone in self._all
                    ]
                )
            except OSError as error:
                log.warning("%s: not written, its shards are asked again: %s", self._file, error)

    def _save(self, stones: list[Tombstone]) -> None:
        done = [stone for stone in stones if stone.is_removed]
        old = {stone.lineages[0] for stone in done[:-REMOVED_KEPT]}
        kept = [stone for stone in stones if stone.lineages[0] not in old]
        if self._file is not None:
            write_whole(self._file, "".join(f"{VALUES.encode(stone)}\n" for stone in kept))
        self._all = kept

    def commands(self, shard: int, term: int) -> list[m.RemoveJob]:
        """What that shard is to be told when it links."""
        with self._lock:
            return [
                stone.command(term)
                for stone in self._all
                if shard in self._waits_for.get(stone.lineages[0], ())
            ]

    def answer_to(self, request: m.DeleteJobRequest) -> m.DeleteJobReply | None:
        """What that very call was answered, if it was made before."""
        with self._lock:
            for stone in self._all:
                if request.request_id and (stone.job, stone.request_id) == (request.job, request.request_id):
                    return stone.reply
        return None

    def holds(self, lineage: str) -> bool:
        """Whether a job was deleted while it had that lineage."""
        with self._lock:
            return any(stone.lineages[0] == lineage for stone in self._all)

    def newest(self, job: str) -> Tombstone | None:
        """Of the jobs that had this name."""
        with self._lock:
            return next((stone for stone in reversed(self._all) if stone.job == job), None)
