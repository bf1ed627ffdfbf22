"""Bytes between a shard and its callers: what a pull is answered with, what was pushed ahead of a part."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sheepfold_wire.errors import AheadGone, PushInProgress
from sheepfold_wire.frames import Buffer, Chunk, PartBuffer
from sheepfold_wire.pooling import BufferPool


@dataclass(frozen=True, slots=True)
class Served:
    """Answer of a pull."""

    version: int
    payload: Buffer


class AheadPart:
    """Bytes of one part that wait for the rest of it.

    A call whose caller has given it up may still bring some when another takes them all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream = threading.Lock()
        self._buffer: PartBuffer | None = None
        self._is_taken = False

    @contextmanager
    def stream(self) -> Iterator[None]:
        """One call brings pieces at a time: each holds a thread of the shard. Raises PushInProgress."""
        if not self._stream.acquire(blocking=False):
            raise PushInProgress("other bytes are being pushed ahead of this part; send these after them")
        try:
            yield
        finally:
            self._stream.release()

    def add(self, chunk: Chunk, payload_bytes: int, pool: BufferPool) -> None:
        """`payload_bytes`: of the whole part. Raises AheadGone once it was taken, BadFrame."""
        with self._lock:
            if self._is_taken:
                raise AheadGone("the part is being pushed without these bytes; send it whole")
            if self._buffer is None:
                self._buffer = PartBuffer(payload_bytes, pool)
            self._buffer.add(chunk)

    def take(self, bytes_due: int) -> PartBuffer | None:
        """What has come, None for nothing due. No more is taken from here on. Raises AheadGone."""
        with self._lock:
            buffer, self._buffer, self._is_taken = self._buffer, None, True
        found = 0 if buffer is None else buffer.filled
        if bytes_due and found != bytes_due:
            raise AheadGone(
                f"{bytes_due} bytes were pushed ahead of the part, {found} of them are held; send it whole"
            )
        return buffer if bytes_due else None
