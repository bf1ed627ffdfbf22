"""How the command line refuses: one line on stderr that names the remedy, exit code 2, never a traceback."""

from __future__ import annotations

from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from sheepfold_server.dashboard.history.file import HistoryRefused
from sheepfold_server.dashboard.listen import CannotListen
from sheepfold_server.dashboard.trackers.tracker import TrackerMissing
from sheepfold_server.shell.start import StartError
from sheepfold_wire.control import NoAnswer
from sheepfold_wire.errors import SheepfoldError

EXIT_FAILED = 1
EXIT_REFUSED = 2

REFUSALS = (SheepfoldError, NoAnswer, StartError, CannotListen, HistoryRefused, TrackerMissing)


class Group(TyperGroup):
    """A command group whose commands may raise our errors."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except REFUSALS as error:
            refuse(str(error))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def refuse(text: str) -> NoReturn:
    """Say why not, in one line, and leave with exit code 2."""
    say(text)
    raise typer.Exit(EXIT_REFUSED)


def say(text: str) -> None:
    """One line on stderr."""
    typer.echo("sheepfold: " + "; ".join(text.splitlines()), err=True)
