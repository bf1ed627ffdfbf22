"""Chores: what one worker of the fleet does every so many versions, such as an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_wire.errors import BadConfig, Overloaded

CHORES_MAX = 64


@dataclass(slots=True)
class _Chore:
    turn: int = 0
    """The newest turn that was given to a worker."""
    worker: str | None = None
    """Who does it; None once it is done, or while nobody does."""
    is_done: bool = True


class Chores:
    """Turn n of a chore is due from version n * every on, and is given to one live worker.

    A worker that asks for its next lease has done its chore; one that leaves or falls silent hands it on. A
    turn that nobody took before the next one was due is passed over.
    """

    def __init__(self) -> None:
        self._chores: dict[str, _Chore] = {}

    def ask(self, request: m.ChoreRequest, version: int) -> m.ChoreReply:
        """Raises BadConfig for a period below 1, Overloaded for too many names."""
        if request.every < 1:
            raise BadConfig(f"chore {request.name!r} every {request.every} versions: give 1 or more")
        if request.name not in self._chores and len(self._chores) >= CHORES_MAX:
            raise Overloaded(f"{CHORES_MAX} chores are known already; use fewer names than {request.name!r}")
        chore = self._chores.setdefault(request.name, _Chore())
        due = max(0, version) // request.every
        if due > chore.turn:
            chore.turn, chore.worker, chore.is_done = due, None, False
        if not chore.is_done and chore.worker is None:
            chore.worker = request.worker
        return m.ChoreReply(
            is_yours=not chore.is_done and chore.worker == request.worker,
            is_over=chore.is_done,
            next_version=(due + 1) * request.every,
            version=version,
        )

    def went_on(self, worker: str) -> None:
        """The worker asks for work: what it was to do is done."""
        for chore in self._chores.values():
            if chore.worker == worker:
                chore.worker, chore.is_done = None, True

    def left(self, worker: str) -> None:
        """The worker is gone: the next one that asks does its chore."""
        for chore in self._chores.values():
            if chore.worker == worker:
                chore.worker = None
