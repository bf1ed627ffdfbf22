"""The table of events: what happened to a job, one sentence each. Not thread-safe."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from sheepfold_server.dashboard.history.lineages import Lineage

PRUNE_EVERY = 256


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `seconds` is unix time; `author` is empty where nobody asked for it."""

    id: int
    step: int
    seconds: float
    kind: str
    text: str
    author: str = ""


class Events:
    """Ids increase over all jobs, so that a reader can ask for what came after one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, lineage: Lineage, event: Event, kept: int) -> Event:
        """Keep an event; returns it with its id."""
        cursor = self._connection.execute(
            "INSERT INTO events(lineage, step, seconds, kind, text, author) VALUES (?, ?, ?, ?, ?, ?)",
            (lineage.id, event.step, event.seconds, event.kind, event.text, event.author),
        )
        number = cursor.lastrowid or 0
        if number % PRUNE_EVERY == 0:
            self._connection.execute(
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE lineage = ? ORDER BY id DESC "
                "LIMIT -1 OFFSET ?)",
                (lineage.id, kept),
            )
        return Event(number, event.step, event.seconds, event.kind, event.text, event.author)

    def has(self, lineage: Lineage, event: Event) -> bool:
        """Whether the same was told before, as after a restart."""
        return (
            self._connection.execute(
                "SELECT 1 FROM events WHERE lineage = ? AND step = ? AND kind = ? AND text = ? LIMIT 1",
                (lineage.id, event.step, event.kind, event.text),
            ).fetchone()
            is not None
        )

    def newest(
        self, lineage: Lineage, first: int, last: int, kinds: Sequence[str], limit: int
    ) -> list[Event]:
        """The newest `limit` events of steps in [first, last], oldest first; without `kinds`, of all."""
        only = f" AND kind IN ({','.join('?' * len(kinds))})" if kinds else ""
        found = self._connection.execute(
            "SELECT id, step, seconds, kind, text, author FROM events "
            f"WHERE lineage = ? AND step BETWEEN ? AND ?{only} ORDER BY id DESC LIMIT ?",
            (lineage.id, first, last, *kinds, limit),
        ).fetchall()
        return [Event(*row) for row in reversed(found)]

    def newest_seconds(self, lineage: Lineage) -> float | None:
        """Unix time of the last event of its newest step; None before one."""
        found = self._connection.execute(
            "SELECT seconds FROM events WHERE lineage = ? ORDER BY step DESC, id DESC LIMIT 1", (lineage.id,)
        ).fetchone()
        return None if found is None else float(found[0])

    def forget(self, lineage: Lineage) -> None:
        self._connection.execute("DELETE FROM events WHERE lineage = ?", (lineage.id,))
