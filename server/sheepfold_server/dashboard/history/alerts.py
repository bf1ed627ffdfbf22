"""The table of alerts: what somebody should look at, and when it was so. Not thread-safe."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from sheepfold_server.dashboard.history.lineages import Lineage

ENDED_KEPT = 64
"""Of a lineage."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What a rule says of a subject, and when; `*_seconds` are unix times."""

    lineage: str
    name: str
    severity: str
    since_step: int
    since_seconds: float
    ended_seconds: float | None
    """None while it is active."""
    subject: str
    text: str
    remedy: str


class Alerts:
    """A row per alert, written again when it ends."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def keep(self, lineage: Lineage, alert: Alert) -> None:
        """Keep an alert as it is now, and of ended ones the newest `ENDED_KEPT`."""
        self._connection.execute(
            "INSERT OR REPLACE INTO alerts(lineage, name, severity, since_step, since_seconds, "
            "ended_seconds, subject, text, remedy) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                lineage.id,
                alert.name,
                alert.severity,
                alert.since_step,
                alert.since_seconds,
                alert.ended_seconds,
                alert.subject,
                alert.text,
                alert.remedy,
            ),
        )
        self._connection.execute(
            "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE lineage = ? AND ended_seconds "
            "IS NOT NULL ORDER BY id DESC LIMIT -1 OFFSET ?)",
            (lineage.id, ENDED_KEPT),
        )

    def of(self, lineage: Lineage) -> list[Alert]:
        """In the order in which they began or, if they did, ended."""
        found = self._connection.execute(
            "SELECT name, severity, since_step, since_seconds, ended_seconds, subject, text, remedy "
            "FROM alerts WHERE lineage = ? ORDER BY id",
            (lineage.id,),
        )
        return [Alert(lineage.name, *row) for row in found]

    def forget(self, lineage: Lineage) -> None:
        self._connection.execute("DELETE FROM alerts WHERE lineage = ?", (lineage.id,))
