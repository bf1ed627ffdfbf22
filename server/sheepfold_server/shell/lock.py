"""A directory that one process holds at a time, by a lock that ends with it, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Held(Exception):
    """Another process has the lock; the text is its pid, or "unknown"."""


def lock_directory(path: Path) -> int:
    """The descriptor that is the lock; closing it lets go. Raises Held, OSError.

    The file stays: removing it would let two holders in.
    """
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise Held(holder) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def holder_of(path: Path) -> str | None:
    """What Held says of who has the lock, None if nobody has. Nothing is kept or written. Raises OSError."""
    try:
        fd = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
    else:
        return None
    finally:
        os.close(fd)
