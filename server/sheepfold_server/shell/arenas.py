"""How much memory the C library keeps for itself in a process of many threads."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
ARENAS_MAX = 2


def limit_arenas() -> bool:
    """Before any thread is started: at most ARENAS_MAX heaps; False where the C library has no such setting.

    glibc gives threads up to eight heaps per core, and what one of them has freed, another does not use: with
    64 threads that each receive megabytes, a shard grew by half of what it holds. Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, ARENAS_MAX) == 1
