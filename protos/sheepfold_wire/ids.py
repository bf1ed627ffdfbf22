"""The numbers everything is named by."""

from __future__ import annotations

import re
from typing import NamedTuple, NewType

Step = NewType("Step", int)
"""Step t reads version t and makes version t + 1; t = 0, 1, ..."""

Version = NewType("Version", int)
"""The weights after that many committed steps; version 0 is w0, -1 means nothing is loaded yet."""

NOTHING_LOADED = Version(-1)

JOB_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class AttemptId(NamedTuple):
    """One lease of a slot to a worker, unique in the job: the idempotency key of a push.

    `counter` starts at 1 in each term and never repeats, so that a shard tells an attempt that has
    ended (counter already announced) from one it has not heard of yet.
    """

    term: int
    counter: int

    def __str__(self) -> str:
        return f"{self.term}.{self.counter}"


NO_ATTEMPT = AttemptId(0, 0)


def is_job_name(text: str) -> bool:
    """Whether `text` may name a job: 1 to 63 characters of a-z, 0-9 and inner dashes."""
    return JOB_NAME.fullmatch(text) is not None
