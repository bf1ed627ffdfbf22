"""Runs a command that is killed when the process that started it dies, however it dies (Linux).

    python tether.py STARTER_PID COMMAND ARGUMENT...

The command takes the place of this process and keeps its pid. Run as a file, with no import of ours, so that
it costs a few milliseconds; calling prctl between fork and exec of a threaded starter would not be safe.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def tethered(command: list[str]) -> list[str]:
    """`command`, tethered to the calling thread: start it from a thread that lives as long as it should."""
    return [sys.executable, "-S", "-E", str(Path(__file__)), str(os.getpid()), *command]


def die_with(starter: int) -> None:
    """Ask the kernel for SIGKILL at the starter's death; exit at once if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != starter:
        sys.exit(1)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
