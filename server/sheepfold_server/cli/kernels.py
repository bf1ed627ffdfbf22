"""`sheepfold kernels`: compile what a job needs before it starts, for instance into an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sheepfold_server.cli.jobs import JobFile
from sheepfold_server.shell.start import StartError
from sheepfold_wire.job import job_from_toml
from sheepfold_wire.optimizer import group_settings, rule_settings

EPILOG = (
    "Example: `sheepfold kernels -f job.toml --into ./kernels`, then SHEEPFOLD_KERNELS=./kernels for shards."
)


def kernels(
    file: JobFile,
    device: Annotated[str, typer.Option(help="Device of the shards: cpu, cuda or cuda:N.")] = "cpu",
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            envvar="SHEEPFOLD_KERNELS",
            help="Folder to keep them in; default: the user's cache.",
        ),
    ] = None,
) -> None:
    """Compile the kernels of a job ahead of time; shards that find them need no compiler."""
    from sheepfold_server.optim.rules import rule_of
    from sheepfold_server.shell.kernels import KernelError, KernelFolder, job_programs

    job = job_from_toml(file)
    settings = [rule_settings(job.optimizer)]
    settings += [group_settings(job.optimizer, group, n) for n, group in enumerate(job.optimizer.groups)]
    folder = KernelFolder(device, into)
    try:
        programs = job_programs(job, [rule_of(given) for given in settings])
        folder.kernel("compiled", programs)
    except KernelError as error:
        raise StartError(str(error)) from None
    typer.echo(f"{len(programs)} kernels of job {job.name} are in {folder.path}")
