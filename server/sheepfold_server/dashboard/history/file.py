"""The history's file: opened by one process at a time, set aside if it cannot be read."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from pathlib import Path

log = logging.getLogger(__name__)

APPLICATION_ID = 0x53484550  # "SHEP"
SCHEMA_VERSION = 3
PAGE_BYTES = 16_384
MMAP_BYTES = 4 << 30
CACHE_KIB = 32_768
SIDE_FILES = ("", "-wal", "-shm")

SCHEMA = """
CREATE TABLE lineages(
    id INTEGER PRIMARY KEY, job TEXT NOT NULL, lineage TEXT NOT NULL, UNIQUE(job, lineage));
CREATE TABLE names(
    lineage INTEGER NOT NULL, kind TEXT NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY(lineage, kind, position)) WITHOUT ROWID;
CREATE TABLE steps(
    key INTEGER PRIMARY KEY, seconds REAL NOT NULL, samples REAL NOT NULL, is_flagged INTEGER NOT NULL,
    scalars BLOB NOT NULL, report BLOB NOT NULL, slices BLOB NOT NULL);
CREATE INDEX flagged ON steps(key) WHERE is_flagged;
CREATE TABLE rollups(
    key INTEGER PRIMARY KEY, step INTEGER NOT NULL, seconds REAL NOT NULL, samples REAL NOT NULL,
    body BLOB NOT NULL);
CREATE TABLE slice_rollups(
    key INTEGER PRIMARY KEY, step INTEGER NOT NULL, seconds REAL NOT NULL, samples REAL NOT NULL,
    steps INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE events(
    id INTEGER PRIMARY KEY AUTOINCREMENT, lineage INTEGER NOT NULL, step INTEGER NOT NULL,
    seconds REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, author TEXT NOT NULL);
CREATE INDEX events_by_step ON events(lineage, step);
CREATE TABLE alerts(
    id INTEGER PRIMARY KEY AUTOINCREMENT, lineage INTEGER NOT NULL, name TEXT NOT NULL,
    severity TEXT NOT NULL, since_step INTEGER NOT NULL, since_seconds REAL NOT NULL, ended_seconds REAL,
    subject TEXT NOT NULL, text TEXT NOT NULL, remedy TEXT NOT NULL,
    UNIQUE(lineage, name, subject, since_seconds));
"""


class HistoryRefused(Exception):
    """The history cannot be kept in that file; the text names who has it, or why, and the remedy."""


class HistoryFile:
    """An open history and the lock that keeps a second process out. Without a path it lives in memory."""

    def __init__(self, path: Path | None) -> None:
        self._lock_fd = -1 if path is None else _lock(path)
        try:
            self.connection = _connect(":memory:") if path is None else _open(path)
        except BaseException:
            self._unlock()
            raise

    def close(self) -> None:
        self.connection.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _lock(path: Path) -> int:
    """A lock beside the file: a second descriptor of the file would, once closed, drop SQLite's."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HistoryRefused(
            f"{path} cannot hold the history ({error.strerror}); give a writable file with --history"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise HistoryRefused(
            f"the history {path} is in use by the dashboard with pid {holder}; stop that one or give another "
            "--history"
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _connect(str(path))
    except sqlite3.OperationalError as error:
        raise HistoryRefused(
            f"{path} cannot hold the history ({error}); give a writable file with --history"
        ) from None
    except sqlite3.DatabaseError as error:
        aside = _set_aside(path)
        log.error(
            "the history %s cannot be read (%s): set aside as %s, a new one is begun", path, error, aside
        )
        return _connect(str(path))


def _set_aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (path.with_name(f"{path.name}.corrupt-{stamp}{suffix}") for suffix in ("", *_numbered()))
    aside = next(name for name in names if not name.exists())
    for side in SIDE_FILES:
        part = path.with_name(path.name + side)
        if part.exists():
            part.rename(aside.with_name(aside.name + side))
    return aside


def _numbered() -> list[str]:
    return [f"-{number}" for number in range(1, 1_000)]


def _connect(name: str) -> sqlite3.Connection:
    """Raises sqlite3.DatabaseError if the file is damaged, HistoryRefused if it is somebody else's."""
    connection = sqlite3.connect(name, check_same_thread=False, isolation_level=None)
    try:
        _prepare(connection, name)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, name: str) -> None:
    connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # of a power cut, the newest second may be lost
    connection.execute(f"PRAGMA mmap_size={MMAP_BYTES}")
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    application, version = (
        connection.execute(f"PRAGMA {word}").fetchone()[0] for word in ("application_id", "user_version")
    )
    is_empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if is_empty:
        connection.executescript(
            f"BEGIN; {SCHEMA} PRAGMA application_id={APPLICATION_ID}; "
            f"PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )
    elif application == APPLICATION_ID and version < SCHEMA_VERSION:
        raise sqlite3.DatabaseError("it is that of an earlier version of sheepfold")
    elif (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
        raise HistoryRefused(
            f"{name} is a database, but not a history of this version of sheepfold; give another --history"
        )
    else:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found.splitlines()[-1])
