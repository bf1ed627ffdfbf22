"""`sheepfold export`: versions of a job as files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from sheepfold_server.shell.tether import tethered

EPILOG = (
    "Example: `sheepfold export lenet --into ./exports --every 500`. Where only the client is: "
    "`python -m sheepfold.export`."
)


def export(
    job: Annotated[str, typer.Argument(metavar="NAME", help="Name of the job.")],
    into: Annotated[Path, typer.Option(metavar="DIR", help="Exports go to DIR/NAME/version-N.")],
    address: Annotated[
        str | None,
        typer.Option("--address", "-a", metavar="HOST:PORT", help="Left out: $SHEEPFOLD, 127.0.0.1:7070."),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Versions between two exports; left out: only the last one."),
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="Newest exports that are kept, beside the best.")] = 3,
    best: Annotated[bool, typer.Option("--best", help="Also the best by the job's stop.metric.")] = False,
    torch: Annotated[bool, typer.Option("--torch", help="Also model.pt, a torch state_dict.")] = False,
    ema: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, metavar="DECAY", help="Also a moving average of the weights, e.g. 0.999."
        ),
    ] = None,
) -> None:
    """Follow a job and write its versions as safetensors, until it has ended; no step waits for it."""
    # A program of the client, in a process of its own, like `sheepfold doctor`.
    command = [
        sys.executable,
        "-m",
        "sheepfold.export",
        "--job",
        job,
        "--into",
        str(into),
        "--keep",
        str(keep),
    ]
    command += [] if address is None else ["--address", address]
    command += [] if every is None else ["--every", str(every)]
    command += [flag for flag, is_set in (("--best", best), ("--torch", torch)) if is_set]
    command += [] if ema is None else ["--ema", str(ema)]
    raise typer.Exit(subprocess.run(tethered(command), check=False).returncode)
