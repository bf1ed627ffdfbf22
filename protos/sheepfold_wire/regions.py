"""Memory that a worker shares with a shard of its host: what both sides must agree on.

A *region* is a memfd whose length is sealed. The worker made it, with all its pages, and maps it. The shard
reads and writes it by calls of the system: whatever a worker does to it, a call fails or brings other bytes,
and the shard does not die of SIGBUS.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sheepfold_wire.codecs import Buffer

KEY_BYTES = 16
ANSWER_BYTES_MAX = 512
"""Of the answer to whoever hands a region over: its number in decimal, or why not."""
PIECE_BYTES = 1 << 20
"""What is copied at a time, so that it is still in the cache where it is digested too."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Seen = Callable[[memoryview], object]
"""Told of each piece, in order."""


def boot_id() -> str:
    """Of this host since it was started, the same in all of its containers; empty where there is none."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def abstract(name: str) -> str:
    """The address of an abstract Unix socket: it has no file, and so leaves none behind."""
    return "\0" + name


def make_region(size: int) -> int:
    """A descriptor of so many bytes, all of them allocated and the length sealed. Raises OSError."""
    descriptor = os.memfd_create("sheepfold", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _seals() -> int:
    return fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def is_sealed(descriptor: int) -> bool:
    """Whether it is a memfd with these seals and no others; False for any other kind of file.

    Only memory has seals: to read and write it can neither wait for anyone nor reach a disk.
    """
    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == _seals())
    except OSError:
        return False


def write_region(descriptor: int, payload: Buffer, seen: Seen = len) -> None:
    """To the region's start. Raises OSError, EOFError."""
    for offset, piece in _pieces(payload):
        seen(piece)
        if os.pwrite(descriptor, piece, offset) != len(piece):
            raise EOFError(f"the region takes no {len(piece)} bytes at {offset}")


def read_region(descriptor: int, into: Buffer, seen: Seen = len) -> None:
    """From the region's start. Raises OSError, EOFError."""
    for offset, piece in _pieces(into):
        if os.preadv(descriptor, [piece], offset) != len(piece):
            raise EOFError(f"the region has no {len(piece)} bytes at {offset}")
        seen(piece)


def _pieces(buffer: Buffer) -> Iterator[tuple[int, memoryview]]:
    view = memoryview(buffer).cast("B")
    for offset in range(0, len(view), PIECE_BYTES):
        yield offset, view[offset : offset + PIECE_BYTES]
