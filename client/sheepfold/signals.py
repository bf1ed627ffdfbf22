"""SIGTERM: preemption gives notice; use it to hand leases back instead of letting them expire."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

EXIT_SIGTERM = 128 + signal.SIGTERM


def leave_on_sigterm() -> None:
    """SIGTERM now ends the script as `sys.exit` does: `with` blocks and exit handlers hand leases back.

    Does nothing where the script has a handler of its own, or outside the main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_SIGTERM)
