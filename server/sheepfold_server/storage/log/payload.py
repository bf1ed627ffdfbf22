"""The payload of one record: its pieces at their place in a segment, under one checksum."""

from __future__ import annotations

import os

import xxhash

from sheepfold_wire.frames import Buffer

WRITE_BYTES = 64 << 20


class Payload:
    """Written piece by piece, in order, by one thread at a time."""

    def __init__(self, fd: int, at: int) -> None:
        self._fd, self._at = fd, at
        self._checksum = xxhash.xxh3_64()
        self.bytes = 0

    def write(self, piece: Buffer) -> None:
        """The checksum first: it brings the piece into the cache for the copy. Raises OSError."""
        self._checksum.update(piece)
        end = write(self._fd, piece, self._at + self.bytes)
        self.bytes = end - self._at

    @property
    def checksum(self) -> int:
        """Of what has been written."""
        return self._checksum.intdigest()


def write(fd: int, data: Buffer, at: int) -> int:
    """Where the next byte goes."""
    with memoryview(data) as view, view.cast("B") as rest:
        done = 0
        while done < len(rest):
            done += os.pwrite(fd, rest[done : done + WRITE_BYTES], at + done)
        return at + done
