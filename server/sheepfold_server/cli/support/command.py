"""The command `sheepfold support-bundle`."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path
from typing import Annotated

import typer

from sheepfold_server.cli.address import DEFAULT, Address
from sheepfold_server.cli.support.collect import Entry, jobs, machine, secrets_of, state_directory
from sheepfold_wire.control import Control

EPILOG = "Example: `sheepfold support-bundle --dir state`"


def support_bundle(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Archive to write (.tar.gz).")
    ] = Path("sheepfold-support.tar.gz"),
    directory: Annotated[
        Path, typer.Option("--dir", help="State directory of `sheepfold up`, for its logs.")
    ] = Path("state"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write it without asking.")] = False,
    address: Address = DEFAULT,
) -> None:
    """Collect what somebody who helps needs: versions, jobs, newest steps, events, logs. Secrets are masked.

    The list is shown first; nothing leaves this machine.
    """
    if output.exists():
        raise typer.BadParameter(f"{output} exists; remove it or give another --output")
    with Control(address) as control:
        entries = [machine(), *jobs(control), *state_directory(directory, secrets_of(directory))]
    for entry in entries:
        typer.echo(f"{entry.size_bytes:>12,} bytes  {entry.name}")
    if not yes:
        typer.confirm(f"Write these {len(entries)} files to {output}?", abort=True)
    write(output, entries)
    typer.echo(f"{output}: look through it before you pass it on")


def write(output: Path, entries: list[Entry]) -> None:
    """For its owner alone."""
    output.touch(mode=0o600)
    with tarfile.open(output, "w:gz") as archive:
        for entry in entries:
            content = entry.text.encode()
            member = tarfile.TarInfo(f"sheepfold-support/{entry.name}")
            member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
            archive.addfile(member, io.BytesIO(content))
