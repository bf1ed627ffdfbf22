"""Which alerts are active and which ended recently. Pure: times are arguments."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sheepfold_server.dashboard.alerts.rules import Finding
from sheepfold_server.dashboard.history.alerts import ENDED_KEPT, Alert


class AlertBook:
    """An alert begins when a rule first speaks about a subject of a lineage, and ends when it no longer does.

    `kept`: what an earlier book held, in the order in which it changed.
    """

    def __init__(self, kept: Iterable[Alert] = ()) -> None:
        self._active: dict[tuple[str, str, str], Alert] = {}
        self._ended: deque[Alert] = deque(maxlen=ENDED_KEPT)
        for alert in kept:
            if alert.ended_seconds is None:
                self._active[alert.lineage, alert.name, alert.subject] = alert
            else:
                self._ended.appendleft(alert)

    def update(self, found: Sequence[Finding], lineage: str, step: int, seconds: float) -> list[Alert]:
        """Take in what the rules say now; returns the alerts that have begun or ended with it."""
        spoken = {(lineage, finding.name, finding.subject): finding for finding in found}
        changed = []
        for key in self._active.keys() - spoken.keys():
            ended = replace(self._active.pop(key), ended_seconds=seconds)
            self._ended.appendleft(ended)
            changed.append(ended)
        for key, finding in spoken.items():
            active = self._active.get(key)
            if active is not None:
                self._active[key] = replace(active, text=finding.text)
                continue
            begun = Alert(
                lineage,
                finding.name,
                finding.severity,
                step,
                seconds,
                None,
                finding.subject,
                finding.text,
                finding.remedy,
            )
            self._active[key] = begun
            changed.append(begun)
        return changed

    def active(self, lineage: str) -> frozenset[tuple[str, str]]:
        """(rule, subject) of what has begun and not ended."""
        return frozenset((name, subject) for of, name, subject in self._active if of == lineage)

    def all(self) -> list[Alert]:
        """Active ones, the newest first, then those that ended, the last one first."""
        return [*reversed(self._active.values()), *self._ended]
