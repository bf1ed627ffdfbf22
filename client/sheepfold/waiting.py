"""What a script is told while it waits: for whom, again every half minute, and when it goes on."""

from __future__ import annotations

REPEAT_SECONDS = 30.0


class Waiting:
    """Turns the course of a wait into the few lines worth a log."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._said_at: float | None = None

    def goes_on(self, text: str, now: float) -> str | None:
        """The line to say now, if any: `text` names who is waited for."""
        self._since = now if self._since is None else self._since
        if self._said_at is not None and now - self._said_at < REPEAT_SECONDS:
            return None
        seconds = now - self._since
        again = "" if self._said_at is None else f" (for {seconds:.0f} s now)"
        self._said_at = now
        return text + again

    def is_over(self, now: float) -> str | None:
        """The line to say now that it is over, if it was ever said."""
        said = None
        if self._said_at is not None and self._since is not None:
            said = f"goes on after {now - self._since:.0f} s"
        self._since = self._said_at = None
        return said
