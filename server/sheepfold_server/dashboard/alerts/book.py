"""Which alerts are active and which ended recently. Pure: times are arguments."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sheepfold_server.dashboard.alerts.rules import Finding

ENDED_KEPT = 64


@dataclass(frozen=True, slots=True)
class Alert:
    """A finding with its time; `*_seconds` are unix times, `ended_seconds` None while it is active."""

    name: str
    severity: str
    since_step: int
    since_seconds: float
    ended_seconds: float | None
    subject: str
    text: str
    remedy: str


class AlertBook:
    """An alert begins when a rule first speaks about a subject, and ends when it no longer does."""

    def __init__(self) -> None:
        self._active: dict[tuple[str, str], Alert] = {}
        self._ended: deque[Alert] = deque(maxlen=ENDED_KEPT)

    def update(self, found: Sequence[Finding], step: int, seconds: float) -> list[Alert]:
        """Take in what the rules say now; returns the alerts that have begun or ended with it."""
        spoken = {(finding.name, finding.subject): finding for finding in found}
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

    def all(self) -> list[Alert]:
        """Active ones, the newest first, then those that ended, the last one first."""
        return [*reversed(self._active.values()), *self._ended]
