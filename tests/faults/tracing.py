"""What a process does that wants to be traced by one that did not start it."""

from __future__ import annotations

import ctypes

PR_SET_PTRACER = 0x59616D61
ANY_PROCESS = ctypes.c_ulong(-1)


def let_be_traced() -> None:
    """Without it, Linux with Yama lets only a parent or root trace a process."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY_PROCESS, 0, 0, 0)
