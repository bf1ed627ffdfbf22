"""`sheepfold doctor`: what keeps a worker on this machine from its servers."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from sheepfold_server.shell.tether import tethered

EPILOG = (
    "Example: `sheepfold doctor -a 10.0.0.5:7070`. Where only the client is: `python -m sheepfold.doctor`."
)


def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            "-a",
            metavar="ADDRESS",
            help="Address of the coordinator; left out: $SHEEPFOLD, else 127.0.0.1:7070.",
        ),
    ] = None,
    job: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Job whose shards are checked; left out: that of the most weights."
        ),
    ] = None,
) -> None:
    """Check, on a worker's machine, the way to coordinator and shards, and what workers need there.

    One line for each check, with the remedy where it failed; exit code 1 if one did.
    """
    # A program of the client, in a process of its own: it sees the environment as a training script does.
    command = [sys.executable, "-m", "sheepfold.doctor"]
    command += [] if address is None else ["--address", address]
    command += [] if job is None else ["--job", job]
    raise typer.Exit(subprocess.run(tethered(command), check=False).returncode)
