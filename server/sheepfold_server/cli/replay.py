"""`sheepfold replay`: versions of a job computed again from what is kept of it, without a server."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sheepfold_server.cli.jobs import JobName
from sheepfold_server.cli.refusals import EXIT_FAILED, say
from sheepfold_wire.errors import PreconditionError

if TYPE_CHECKING:
    from sheepfold_server.shell.replaying import Source

STATE = Path("state")
EPILOG = "Example: `sheepfold replay lenet --dir state --from 400 --to 420`"

Version = Annotated[int | None, typer.Option("--version", min=0, metavar="V", help="Only this version.")]
First = Annotated[int | None, typer.Option("--from", min=0, metavar="A", help="From this version on.")]
Last = Annotated[int | None, typer.Option("--to", min=0, metavar="B", help="Up to this version.")]


def replay(
    name: JobName,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            file_okay=False,
            help="State directory of `sheepfold up`, or any that holds what was given as --dir to the roles, "
            "as coordinator, shard-0, shard-1, ...; left out: ./state, unless --url is given.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Directory or store with checkpoints; left out: DIR/checkpoints, if there."
        ),
    ] = None,
    version: Version = None,
    first: First = None,
    last: Last = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Also write the last of these versions, as safetensors."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to compute, as the job was: cpu, cuda or cuda:N.")
    ] = "cpu",
) -> None:
    """Compute versions of a job again and print the digest of each; without a range, of the newest.

    It reads the logs of coordinator and shards, and checkpoints, while the servers stand still, and changes
    nothing: of the job's present lineage, not of those it has left. Mean gradients whose step was not
    committed do not count. The digest is that which `Client.digest` gives and the demo prints: of weights,
    optimizer state and counters.

    Exit code 1: log and checkpoint of a version differ, or nothing that holds it is whole.
    """
    from sheepfold_server.shell.kernels import KernelError
    from sheepfold_server.shell.part_store import StoreErrors
    from sheepfold_server.shell.replaying import Weights, chosen, digests, standing_still
    from sheepfold_server.shell.shard_main import check_device
    from sheepfold_server.storage.log.errors import LogError

    check_device(device)
    root = STATE if directory is None and url is None else directory
    try:
        with nullcontext() if root is None else standing_still(root):
            sources = _sources(name, root, url, device)
            wanted = chosen({v for source in sources for v in source.versions}, version, first, last)
            weights = Weights(wanted[-1])
            by_source = {source.name: digests(source, wanted, weights.look) for source in sources}
    except (LogError, KernelError, *StoreErrors) as error:
        raise PreconditionError(str(error)) from None
    if not _are_told([(v, _by_digest(v, by_source)) for v in wanted]):
        raise typer.Exit(EXIT_FAILED)
    if export is not None:
        count = weights.write(export, name, sources[0].lineage)
        typer.echo(f"{export}: {count} tensors of version {wanted[-1]}")


def _sources(name: str, root: Path | None, url: str | None, device: str) -> list[Source]:
    """What there is of the job; raises as Logs and Checkpoints."""
    from sheepfold_server.shell.replaying import Checkpoints, Logs

    logs = None if root is None else Logs(root, name, device, say)
    if root is not None and url is None and (root / "checkpoints").is_dir():
        url = str(root / "checkpoints")
    kept = None if url is None else Checkpoints(url, name, None if logs is None else logs.lineage, say)
    return [source for source in (logs, kept) if source is not None]


def _by_digest(version: int, by_source: dict[str, dict[int, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for source, digests in by_source.items():
        if version in digests:
            found.setdefault(digests[version], []).append(source)
    return found


def _are_told(versions: list[tuple[int, dict[str, list[str]]]]) -> bool:
    """Prints each version with its digest and where it is from; whether each has one digest."""
    for version, found in versions:
        for digest, sources in found.items():
            typer.echo(f"version {version:<8} {digest}  {' and '.join(sources)}")
        if not found:
            say(f"version {version}: nothing that holds it is whole")
        elif len(found) > 1:
            say(f"version {version}: log and checkpoint differ; one of them is not what was computed")
    return all(len(found) == 1 for _, found in versions)
