"""Who looks. Tokens are checked elsewhere: the dashboard is given a function that knows how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fastapi import Request


class Caller(Protocol):
    """Somebody with a role, and one job or all of them."""

    @property
    def role(self) -> str: ...

    @property
    def job(self) -> str: ...

    @property
    def is_scoped(self) -> bool:
        """Whether other jobs do not exist for it."""

    def sees(self, job: str) -> bool: ...

    def absent(self, job: str) -> Exception:
        """What it is told of a job that it may not see, or that is not there."""


Verify = Callable[[str], Caller]
"""Who a token is for; raises TokenRefused, without the token."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who is let in, and by which names of ours."""

    verify: Verify | None = None
    """None: whoever reaches us, without a login."""
    hosts: tuple[str, ...] = ()
    """Names in URLs, besides loopback and the address that a request came to."""


class Everyone:
    """Who calls where nobody is asked."""

    role, job, is_scoped = "admin", "*", False

    def sees(self, job: str) -> bool:
        return True

    def absent(self, job: str) -> Exception:
        return LookupError(f"no job named {job!r}")


EVERYONE = Everyone()


def caller_of(request: Request) -> Caller:
    """As the gate found out; everyone where there is no gate."""
    found: Caller = getattr(request.state, "caller", EVERYONE)
    return found
