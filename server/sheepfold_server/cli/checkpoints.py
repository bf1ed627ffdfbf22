"""`sheepfold checkpoint ...`: keep, look at, take out and take up again what is kept of a job."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sheepfold_server.cli.address import DEFAULT, Address, Wait
from sheepfold_server.cli.jobs import JobName, author
from sheepfold_server.cli.refusals import EXIT_FAILED, Group, say
from sheepfold_wire import messages as m
from sheepfold_wire.control import Control
from sheepfold_wire.errors import BadConfig, CheckpointFailed, NoCheckpoint, NotReady

if TYPE_CHECKING:
    from sheepfold_server.storage.checkpoints import CheckpointIndex, CheckpointStore

app = typer.Typer(cls=Group, no_args_is_help=True, help="Keep the state of a job, look at it, restore it.")

SAVE_SECONDS = 3_600.0
RETRY_SECONDS = 1.0

Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Read this directory or store, without a server; left out: that of the job's coordinator.",
    ),
]
Version = Annotated[int | None, typer.Option(min=0, metavar="V", help="Version; left out: the newest.")]


@app.command(epilog="Example: `sheepfold checkpoint save lenet`")
def save(name: JobName, address: Address = DEFAULT) -> None:
    """Keep the newest version now; returns once it is stored on all shards. Training goes on meanwhile."""
    with Control(address, SAVE_SECONDS) as control:
        reply = control.checkpoint(m.CheckpointRequest(name, author()))
    typer.echo(f"job {name}: version {reply.version} is kept")


@app.command(epilog="Example: `sheepfold checkpoint restore lenet`, on a coordinator that does not have it")
def restore(
    name: JobName,
    version: Version = None,
    accept_new_numerics: Annotated[
        bool,
        typer.Option(
            "--accept-new-numerics",
            help="Go on with another device type, processor family or torch version: with other bits.",
        ),
    ] = False,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Do nothing where the coordinator has the job already.")
    ] = False,
    wait: Wait = 0.0,
    address: Address = DEFAULT,
) -> None:
    """Take up a job from its checkpoint, as a new lineage, on as many shards as the coordinator has."""
    request = m.RestoreRequest(uuid.uuid4().hex, name, version, author(), accept_new_numerics)
    deadline = time.monotonic() + wait
    with Control(address, SAVE_SECONDS) as control:
        if name in control.jobs(wait) and if_absent:
            typer.echo(f"job {name} is here already")
            return
        reply = _restored(control, request, deadline)
    for passed_over in reply.passed_over:
        say(f"passed over: {passed_over}")
    typer.echo(f"job {name}: goes on from version {reply.version} as lineage {reply.lineage}")


def _restored(control: Control, request: m.RestoreRequest, deadline: float) -> m.RestoreReply:
    """Shards may be starting; raises NotReady once that takes too long."""
    while True:
        try:
            return control.restore(request)
        except NotReady:
            if time.monotonic() >= deadline:
                raise
            time.sleep(RETRY_SECONDS)


@app.command("list", epilog="Example: `sheepfold checkpoint list lenet`")
def list_all(name: JobName, url: Url = None, address: Address = DEFAULT) -> None:
    """Print what is kept of a job, newest version first; lengths are not compared (see `verify`)."""
    store = _store(name, url, address)
    listing = store.listing()
    for index in sorted(listing.indices, key=lambda index: index.created_at, reverse=True):
        size = sum(part.bytes for part in index.files)
        age = max(0.0, time.time() - index.created_at)
        typer.echo(
            f"version {index.version:<8} {index.shard_count} shards  {size:>15,} bytes  "
            f"{age:>10,.0f} s ago  lineage {index.lineage[:8]}"
        )
    if not listing.indices:
        typer.echo(f"nothing is kept of job {name} in {store.url}")
    for problem in listing.problems:
        say(f"{problem.file}: {problem.reason}")


@app.command(epilog="Example: `sheepfold checkpoint verify lenet --version 400`")
def verify(name: JobName, version: Version = None, url: Url = None, address: Address = DEFAULT) -> None:
    """Read every file of each checkpoint, or of one, and compare it with its index."""
    from sheepfold_server.storage.checkpoints import CheckpointCorrupt

    store = _store(name, url, address)
    listing = store.listing()
    is_bad = bool(listing.problems)
    for problem in listing.problems:
        say(f"{problem.file}: {problem.reason}")
    for index in _chosen(listing.indices, name, version, store.url, all_if_none=True):
        try:
            store.verify(index)
        except CheckpointCorrupt as error:
            is_bad = True
            say(f"version {index.version}: {error}")
        else:
            typer.echo(f"version {index.version}: every file is as its index says ({index.path})")
    if is_bad:
        raise typer.Exit(EXIT_FAILED)


@app.command(epilog="Example: `sheepfold checkpoint export lenet --into lenet.safetensors`")
def export(
    name: JobName,
    into: Annotated[
        Path, typer.Option(metavar="FILE", dir_okay=False, help="The safetensors file to write.")
    ],
    version: Version = None,
    url: Url = None,
    address: Address = DEFAULT,
) -> None:
    """Write the weights of a checkpoint as one file, under the model's own names, in fp32."""
    from sheepfold_server.storage.checkpoints import CheckpointCorrupt
    from sheepfold_server.storage.checkpoints.export import write_checkpoint

    store = _store(name, url, address)
    (index,) = _chosen(store.listing().indices, name, version, store.url, all_if_none=False)
    try:
        store.verify(index)
        count = write_checkpoint(store, index, into)
    except (CheckpointCorrupt, OSError) as error:
        raise CheckpointFailed(str(error)) from None
    typer.echo(f"{into}: {count} tensors of version {index.version}")


def _store(name: str, url: str | None, address: Address) -> CheckpointStore:
    """Raises CheckpointFailed, for an url that cannot be read too."""
    from sheepfold_server.shell.part_store import StoreErrors
    from sheepfold_server.storage.checkpoints import CheckpointStore

    if url is None:
        with Control(address) as control:
            url = control.status(name).checkpoint_url
        if not url:
            raise CheckpointFailed(f"the coordinator of job {name} keeps no checkpoints; give --url")
    try:
        store = CheckpointStore(url, name)
        store.lineages()
    except StoreErrors as error:
        raise CheckpointFailed(f"{url} cannot be read: {error}") from None
    return store


def _chosen(
    indices: tuple[CheckpointIndex, ...], name: str, version: int | None, url: str, all_if_none: bool
) -> list[CheckpointIndex]:
    """Of one version, the newest life of it; raises NoCheckpoint."""
    newest = sorted(indices, key=lambda index: index.created_at, reverse=True)
    found = [index for index in newest if version in (None, index.version)]
    if not found:
        kept = ", ".join(str(index.version) for index in newest) or "none"
        wanted = "" if version is None else f" of version {version}"
        raise NoCheckpoint(f"no checkpoint{wanted} of job {name} in {url}; kept are versions: {kept}")
    return found if all_if_none and version is None else found[:1]


def check_url(text: str) -> str:
    """An url that fsspec has a driver for; raises BadConfig."""
    from fsspec.core import url_to_fs

    try:
        url_to_fs(text)
    except (ValueError, ImportError) as error:
        raise BadConfig(
            f"--checkpoints {text}: {error}; give a directory, or an url such as s3://bucket/path"
        ) from None
    return str(Path(text).resolve()) if "://" not in text else text
