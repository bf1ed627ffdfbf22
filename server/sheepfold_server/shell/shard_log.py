"""A shard's log of one job: the core's records in a RecordLog, or nowhere if the shard has no directory."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import sheepfold_wire.messages as m
from sheepfold_server.core.records import InitPart, PreparedSum, ShardRecord, StateSaved, VersionServed
from sheepfold_server.core.replay import Place
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_server.storage.log.payload import Payload
from sheepfold_server.storage.log.segment import check_payload, read_payload, sync_directory
from sheepfold_server.storage.log.segment_file import Found
from sheepfold_server.storage.log.values import Values
from sheepfold_wire.frames import Buffer

log = logging.getLogger(__name__)

VALUES: Values[ShardRecord] = Values(
    (InitPart, PreparedSum, StateSaved, VersionServed, m.LoadInit, m.Commit, m.Totals)
)
SEGMENT_BYTES_MIN = 4 << 20
RECORDS_PER_SEGMENT = 4
ROOM_FOR_TEXT = 1 << 20
RETRY_SECONDS = 1.0
STATES_PER_SAVE = 4
"""The state is saved once the log since is that many times as large: a quarter more is written for it."""
STATE_BYTES_MIN = 16 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class PayloadAhead:
    """A payload that is written while it is made, by a thread of its own: see `ShardLog.ahead`."""

    def __init__(self, log_of_job: RecordLog, writer: Executor, size: int) -> None:
        self._writer = writer
        self._payload = writer.submit(log_of_job.payload_ahead, size)
        self.pieces: list[Buffer] = []
        self._writes: list[Future[None]] = []

    def take(self, piece: Buffer) -> None:
        """The next piece, which must not change until the record is appended."""
        self.pieces.append(piece)
        self._writes.append(self._writer.submit(lambda: self._payload.result().write(piece)))

    def written(self) -> Payload | None:
        """Once all that was taken is written, or was tried; None if the disk did not take it.

        Nothing is on its way to the file any more: what is written there next must stay.
        """
        wait(self._writes)
        try:
            for write in self._writes:
                write.result()
            return self._payload.result()
        except OSError as error:
            log.warning("a payload was not written ahead: %s", error)
            return None


class ShardLog:
    """What of one job on one shard outlives the process."""

    def __init__(self, directory: Path, belongs_to: str, part_bytes: int, is_synced: bool) -> None:
        """`part_bytes`: of one fp32 part, the usual payload. Raises OSError, LogError."""
        self._saved: list[int] = []
        """Numbers of the records that hold a whole state."""
        self.saved_version: int | None = None
        """Version of the newest of them."""
        self._bytes_since = 0
        segment_bytes = max(SEGMENT_BYTES_MIN, RECORDS_PER_SEGMENT * (part_bytes + ROOM_FOR_TEXT))
        self._log = RecordLog(directory, belongs_to, segment_bytes, is_synced)
        self._found: list[Found] = []
        self._stopped = threading.Event()
        self._writer = ThreadPoolExecutor(1, "log")
        self._ahead: PayloadAhead | None = None
        """The newest, whose place is that of the next record."""

    def read(self) -> Iterator[tuple[ShardRecord, Place]]:
        """Every record in order, before the first append."""
        for found in self._log.read():
            self._found.append(found)
            record = VALUES.decode(found.text)
            self._count(record, found.header.sequence, found.header.text_bytes + found.header.payload_bytes)
            yield record, len(self._found) - 1

    def read_back(self) -> Iterator[tuple[ShardRecord, Place]]:
        """Every record again, up to now; `end_of_reading` once that is enough."""
        for found in self._log.read_back():
            self._found.append(found)
            yield VALUES.decode(found.text), len(self._found) - 1

    def payload(self, place: Place) -> Buffer:
        return read_payload(self._found[place])

    def check(self, place: Place) -> None:
        """That payload is as it was written. Raises LogCorrupt."""
        check_payload(self._found[place])

    def end_of_reading(self) -> None:
        self._found.clear()

    def ahead(self, size: int) -> PayloadAhead:
        """The payload of a record that is not known yet. `append` it with its pieces: if another record comes
        before it, or the disk is full, they are written then."""
        self._ahead = PayloadAhead(self._log, self._writer, size)
        return self._ahead

    def append(
        self, record: ShardRecord, payload: Sequence[Buffer] = (), ahead: PayloadAhead | None = None
    ) -> None:
        """Returns when the record outlives the process. While the disk is full it waits, and says so."""
        text = VALUES.encode(record)
        if self._ahead is not None:  # wanted or not, it is writing where this record goes
            self._ahead.written()
            self._ahead = None
        written = None if ahead is None else ahead.written()
        while True:
            try:
                number = self._log.append(text, payload, written)
                self._count(record, number, len(text) + sum(memoryview(piece).nbytes for piece in payload))
                return
            except OSError as error:
                if error.errno not in _FULL or self._stopped.is_set():
                    raise
                log.error(
                    "%s: %s; nothing is lost, this shard waits until there is room",
                    self._log.directory,
                    error.strerror,
                )
                self._stopped.wait(RETRY_SECONDS)

    def _count(self, record: ShardRecord, number: int, record_bytes: int) -> None:
        """A whole state makes what stands before the one before it superfluous."""
        self._bytes_since += record_bytes
        if isinstance(record, StateSaved):
            self._saved, self._bytes_since = [*self._saved[-1:], number], 0
            self.saved_version = record.version

    def is_long(self, state_bytes: int) -> bool:
        """Whether the state should be saved, so that neither the disk fills nor a restart takes long."""
        return self._bytes_since > max(STATE_BYTES_MIN, STATES_PER_SAVE * state_bytes)

    def forget(self) -> None:
        """Room of what is not needed is used again. Two saved states stay: a restart may need both."""
        if len(self._saved) > 1:
            self._log.forget_before(self._saved[0])

    def close(self) -> None:
        self._stopped.set()
        self._writer.shutdown()
        self._log.close()


def remove_logs(root: Path, job: str, lineages: Collection[str]) -> None:
    """Those of these lineages, for good, below a shard's own directory; others stay. Raises OSError."""
    folder = root / "jobs" / job
    if not folder.is_dir():
        return
    for path in folder.iterdir():  # only what is found here can be named
        if path.name in lineages:
            shutil.rmtree(path)
    sync_directory(folder)
    with suppress(OSError):  # another lineage is there
        folder.rmdir()
        sync_directory(folder.parent)


class NoLog:
    """Of a shard without a directory: what it holds dies with it."""

    saved_version: int | None = None

    def read(self) -> Iterator[tuple[ShardRecord, Place]]:
        return iter(())

    def read_back(self) -> Iterator[tuple[ShardRecord, Place]]:
        return iter(())

    def payload(self, place: Place) -> Buffer:
        raise LookupError(f"record {place} of a log that keeps nothing")

    def check(self, place: Place) -> None:
        raise LookupError(f"nothing is at {place}: there is no log")

    def end_of_reading(self) -> None:
        pass

    def ahead(self, size: int) -> None:
        return None

    def append(
        self, record: ShardRecord, payload: Sequence[Buffer] = (), ahead: PayloadAhead | None = None
    ) -> None:
        pass

    def is_long(self, state_bytes: int) -> bool:
        return False

    def forget(self) -> None:
        pass

    def close(self) -> None:
        pass


OpenLog = Callable[[str, str, int], ShardLog | NoLog]
"""(job, what it belongs to, bytes of an fp32 part) -> its log."""
