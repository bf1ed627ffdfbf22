"""Who has logged in by the page: a random number in a cookie, the rest in this process' memory."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

COOKIE = "sheepfold_session"
ID_BYTES = 32
SESSION_SECONDS = 12 * 3600
SESSIONS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Session:
    """The token is kept and checked again with each request: its end, or its key's, ends the session too."""

    token: str = field(repr=False)
    ends_at: float


class Sessions:
    """A restart of the process ends them all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def open(self, token: str) -> str:
        """The new session's number; the oldest one ends where there are too many."""
        while len(self._sessions) >= SESSIONS_MAX:
            self._sessions.popitem(last=False)
        number = secrets.token_urlsafe(ID_BYTES)
        self._sessions[number] = Session(token, self._clock() + SESSION_SECONDS)
        return number

    def token(self, number: str) -> str | None:
        """What was shown at the login; None for a session that is over."""
        session = self._sessions.get(number)
        if session is not None and self._clock() >= session.ends_at:
            self.close(number)
            return None
        return None if session is None else session.token

    def close(self, number: str) -> None:
        self._sessions.pop(number, None)


def session_number(cookies: str) -> str:
    """Of the `Cookie` header; empty if there is none."""
    pairs = (each.strip().partition("=") for each in cookies.split(";"))
    return next((value for name, _, value in pairs if name == COOKIE), "")


def set_cookie(number: str, is_secure: bool) -> str:
    """The `Set-Cookie` header that begins a session, or, with an empty number, ends one."""
    age = SESSION_SECONDS if number else 0
    secure = "; Secure" if is_secure else ""
    return f"{COOKIE}={number}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}"
