"""Large buffers that are used again: fresh memory costs more than what is done with it.

The system hands out pages one by one, as they are first written to: on the machines measured that took three
to ten times as long as the copy into them, for every push and every pull.
"""

from __future__ import annotations

import sys
import threading


class BufferPool:
    """Buffers for payloads; one is given again, as it was left, once nothing else refers to it.

    Whoever holds a buffer, or a view of it (memoryview, numpy, torch), keeps it: nobody hands anything back.
    """

    def __init__(self, bytes_max: int) -> None:
        """Of this many bytes at most the pool keeps hold; what it gives beyond them goes with its user."""
        self._bytes_max = bytes_max
        self._held: list[bytearray] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> bytearray:
        """A buffer of exactly `size` bytes: zeros if it is new, else what its last user left there."""
        with self._lock:
            for at in range(len(self._held)):
                if len(self._held[at]) == size and _references(self._held, at) == _UNUSED:
                    return self._held[at]
            fresh = bytearray(size)
            self._make_room(size)
            if sum(map(len, self._held)) + size <= self._bytes_max:
                self._held.append(fresh)
            return fresh

    def _make_room(self, size: int) -> None:
        """Unused buffers of another size are of no use to whoever takes this one."""
        unused = [at for at in range(len(self._held)) if _references(self._held, at) == _UNUSED]
        kept = sum(map(len, self._held))
        for at in reversed(unused):
            if kept + size <= self._bytes_max:
                return
            kept -= len(self._held.pop(at))


def _references(held: list[bytearray], at: int) -> int:
    """CPython's count; how many of them are this look's own, `_UNUSED` knows."""
    return sys.getrefcount(held[at])


_UNUSED = _references([bytearray()], 0)
"""The count of a buffer that only the pool's list refers to."""
