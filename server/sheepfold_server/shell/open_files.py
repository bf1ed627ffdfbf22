"""How many connections a server takes: each is a file, and logs and checkpoints need some too."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 8192
"""At each address of a server: twice the workers that a job may have by default."""
FEW = 1024
"""Below which it is said."""
ADDRESSES = 4
"""Into which the files are divided: up to three that a server listens on, and everything else it opens."""


def connections_max() -> int:
    """At each address, so that connections never take the last file."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else min(CONNECTIONS_MAX, soft // ADDRESSES)


def raise_open_files() -> None:
    """Up to what this process may have; says so if that leaves room for few connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if connections_max() < FEW:
        log.warning(
            "this process may open %d files, which leaves room for %d connections at each of its addresses; "
            "for %d, start it with `ulimit -Hn %d`",
            hard,
            connections_max(),
            FEW,
            FEW * ADDRESSES,
        )
