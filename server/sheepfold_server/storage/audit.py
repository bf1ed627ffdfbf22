"""The audit log: who did what, one JSON object a line, each sealed with a hash over all lines before it.

A line that is changed, taken out or put in breaks the chain from there on. Lines cut off at the end cannot be
seen in the file alone: whoever must prove that none is missing keeps the newest hash elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "audit.jsonl"
FILE_BYTES_MAX = 64 << 20
"""A file of that size is put aside as audit.N.jsonl, and the chain goes on in a new one."""
TAIL_BYTES = 1 << 16
START = "0" * 64
"""The hash before the first line."""

Entry = Mapping[str, str | int | float]


class AuditError(Exception):
    """The log is not as it was written; the text names file, line and what to do."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a log holds, once its chain was followed."""

    lines: int
    newest_hash: str


class AuditLog:
    """Appends to the log of a directory. Any thread may call it; each entry is one write."""

    def __init__(self, directory: Path) -> None:
        """Goes on behind the newest line, a torn one is cut off. Raises OSError, AuditError."""
        self._file = directory / NAME
        self._lock = threading.Lock()
        self._fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._hash = self._resume()

    def _resume(self) -> str:
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, TAIL_BYTES, max(0, size - TAIL_BYTES))
        whole, _, torn = tail.rpartition(b"\n")
        if torn:  # the machine lost power within a write
            os.ftruncate(self._fd, size - len(torn))
        if whole:
            return _hash_of(whole.rpartition(b"\n")[2], self._file, 0)
        before = put_aside(self._file.parent)
        return check_file(before[-1], None).newest_hash if before else START

    def append(self, entry: Entry) -> None:
        """Whole or not at all; raises OSError if it cannot be written."""
        with self._lock:
            if os.fstat(self._fd).st_size >= FILE_BYTES_MAX:
                self._put_aside()
            size = os.fstat(self._fd).st_size
            line, digest = sealed(entry, self._hash)
            try:
                if os.write(self._fd, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(self._fd, size)
                raise
            self._hash = digest

    def _put_aside(self) -> None:
        number = len(put_aside(self._file.parent)) + 1
        self._file.rename(self._file.with_name(f"audit.{number}.jsonl"))
        os.close(self._fd)
        self._fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def sealed(entry: Entry, before: str) -> tuple[bytes, str]:
    """(line, its hash): SHA-256 of the hash before and the entry as canonical JSON."""
    text = json.dumps(dict(entry), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(f"{before}{text}".encode()).hexdigest()
    return f'{text[:-1]}{"," if entry else ""}"hash":"{digest}"}}\n'.encode(), digest


def put_aside(directory: Path) -> list[Path]:
    """Earlier files of a log, oldest first."""
    found = directory.glob("audit.*.jsonl")
    return sorted((file for file in found if _number(file)), key=_number)


def _number(file: Path) -> int:
    middle = file.name.removeprefix("audit.").removesuffix(".jsonl")
    return int(middle) if middle.isdecimal() else 0


def check_log(directory: Path) -> Checked:
    """Follows the chain through all files; raises AuditError at the first line that does not fit, OSError."""
    lines, newest = 0, START
    for file in (*put_aside(directory), directory / NAME):
        checked = check_file(file, newest)
        lines, newest = lines + checked.lines, checked.newest_hash
    return Checked(lines, newest)


def check_file(file: Path, before: str | None) -> Checked:
    """`before`: the newest hash of the file before it; None takes the first line as it is."""
    count, newest = 0, START if before is None else before
    for number, line in _lines(file):
        digest = _hash_of(line, file, number)
        if count or before is not None:
            entry = json.loads(line)
            entry.pop("hash")
            if sealed(entry, newest) != (line + b"\n", digest):
                raise AuditError(
                    f"{file} line {number}: it does not follow the line before it: one of both was changed, "
                    "or lines were taken out or put in; compare with a copy"
                )
        count, newest = number, digest
    return Checked(count, newest)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            yield number, line.rstrip(b"\n")


def _hash_of(line: bytes, file: Path, number: int) -> str:
    """`number` 0: the last line. Raises AuditError."""
    try:
        return str(json.loads(line)["hash"])
    except (ValueError, KeyError, TypeError, RecursionError):
        where = f"line {number}" if number else "its last line"
        raise AuditError(f"{file} {where}: it is no entry of an audit log; compare with a copy") from None
