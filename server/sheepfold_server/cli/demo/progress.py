"""How far the demo is: a bar on a terminal, a line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import sys
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINES_PER_RUN = 6


class ProgressView(Protocol):
    """Where the demo tells how it goes."""

    def say(self, text: str) -> None: ...

    def show(self, version: int, facts: str) -> None: ...

    def close(self) -> None: ...


class Bar:
    """A bar that stays at the bottom of the terminal."""

    def __init__(self, steps: int) -> None:
        columns = (
            TextColumn("step"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=steps)
        self._is_started = False

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)

    def show(self, version: int, facts: str) -> None:
        if not self._is_started:
            self._progress.start()
            self._is_started = True
        self._progress.update(self._task, completed=max(0, version), description=facts)

    def close(self) -> None:
        if self._is_started:
            self._progress.stop()


class Lines:
    """A line each time another sixth of the steps is done: for logs."""

    def __init__(self, steps: int) -> None:
        self._steps, self._every, self._next = steps, max(1, steps // LINES_PER_RUN), 0

    def say(self, text: str) -> None:
        typer.echo(text, err=True)

    def show(self, version: int, facts: str) -> None:
        if version >= self._next:
            following = version - version % self._every + self._every
            self._next = min(following, self._steps) if version < self._steps else self._steps + 1
            self.say(f"step {version:,} of {self._steps:,}, {facts}")

    def close(self) -> None:
        pass


def progress_for(steps: int) -> ProgressView:
    return Bar(steps) if sys.stderr.isatty() else Lines(steps)
