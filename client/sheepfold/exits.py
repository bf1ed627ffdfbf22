"""Exit codes of a training script, for whatever starts it again or does not.

0   the job has ended
75  try again: nobody answered for too long, another rank of this host's process group has gone, or SIGTERM
    asked this worker to go (EX_TEMPFAIL)
78  never retry: the server, or this client, refused (EX_CONFIG)
"""

from __future__ import annotations

import sys
from types import TracebackType

from sheepfold.errors import GroupBroken, JobEnded, Refused, ServerUnavailable

EXIT_ENDED = 0
EXIT_TRY_AGAIN = 75
EXIT_NEVER_RETRY = 78

_is_set = False


def exit_code(error: BaseException) -> int | None:
    """Of a script that ends with this exception; None: Python's own."""
    match error:
        case JobEnded():
            return EXIT_ENDED
        case ServerUnavailable() | GroupBroken():
            return EXIT_TRY_AGAIN
        case Refused():
            return EXIT_NEVER_RETRY
    return None


def set_exit_codes() -> None:
    """From now on a script that one of our exceptions ends says so in its exit code, and in one line."""
    global _is_set
    if _is_set:
        return
    _is_set = True
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        code = exit_code(error)
        if code is None:
            previous(kind, error, trace)
            return
        if code != EXIT_ENDED:
            previous(kind, error, trace)
        meaning = {EXIT_ENDED: f"{error}", EXIT_TRY_AGAIN: "try again", EXIT_NEVER_RETRY: "never retry"}[code]
        print(f"sheepfold: exit code {code}: {meaning}", file=sys.stderr)
        raise SystemExit(code)  # the interpreter takes the code from what its hook raises

    sys.excepthook = hook
