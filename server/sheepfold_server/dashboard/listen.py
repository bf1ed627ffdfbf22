"""Where the dashboard listens."""

from __future__ import annotations

import socket


class CannotListen(Exception):
    """The address is taken or not ours; the text names it and the remedy."""


def bind(listen: str, backlog: int) -> socket.socket:
    """A listening socket at HOST:PORT; raises CannotListen."""
    host, _, port = listen.rpartition(":")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host.strip("[]"), int(port)))
        bound.listen(backlog)
    except (OSError, ValueError, OverflowError) as error:
        bound.close()
        why = getattr(error, "strerror", None) or str(error)
        raise CannotListen(
            f"the dashboard cannot listen on {listen} ({why}); give another address with --listen HOST:PORT, "
            "or another port with `sheepfold up --dashboard-port`"
        ) from None
    return bound
