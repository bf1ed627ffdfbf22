"""`sheepfold up`: everything on this machine, until ctrl-C."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from sheepfold_server.cli.checkpoints import check_url
from sheepfold_server.cli.listen import Insecure, listen_host
from sheepfold_server.cli.refusals import EXIT_FAILED, say
from sheepfold_server.cli.trackers import Trackers
from sheepfold_server.dashboard.trackers.choose import tracker_of
from sheepfold_server.shell.child import Interrupted
from sheepfold_server.shell.supervisor import HOST, PartLost, Supervisor, UpConfig

EPILOG = "Example: `sheepfold up --shards 2 --dir ./state`, then `sheepfold job create -f job.toml`."
CHECK_SECONDS = 0.2

Checkpoints = Annotated[
    str, typer.Option(metavar="URL", help="Keep checkpoints here; left out: in the state directory.")
]


def up(
    shards: Annotated[int, typer.Option(min=1, max=64, help="Number of shard processes.")] = 2,
    directory: Annotated[
        Path,
        typer.Option(
            "--dir",
            help="State directory, one `up` each: servers' logs, up.json, logs/, the dashboard's history.",
        ),
    ] = Path("state"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the coordinator; 0 takes a free one.")
    ] = 7070,
    dashboard_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the dashboard; 0 takes a free one.")
    ] = 8070,
    threads: Annotated[
        int, typer.Option(min=1, max=1024, help="Threads per shard for the optimizer step.")
    ] = 1,
    device: Annotated[str, typer.Option(help="Device of all shards: cpu, cuda or cuda:N.")] = "cpu",
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            callback=lambda text: text if text is None else listen_host(text),
            help="Address of this machine that workers on others reach, to serve on by TLS and with a token.",
        ),
    ] = None,
    checkpoints: Checkpoints = "",
    insecure: Insecure = False,
    tracker: Trackers = [],  # noqa: B006
) -> None:
    """Run coordinator, shards and dashboard on this machine until ctrl-C, on loopback unless told otherwise.

    With --listen, certificates and tokens are made in the state directory and kept there for the next time:
    a worker's in the line that is printed, an administrator's in the file `admin`.

    What dies is started again and goes on from the state directory, jobs of an earlier `up` in it included.
    If the coordinator or a shard cannot be started, all of it stops: exit code 1.
    """
    for text in tracker:
        tracker_of(text)  # refused here in one line, and not in a log of the dashboard
    config = UpConfig(
        directory=directory,
        shard_count=shards,
        port=port,
        dashboard_port=dashboard_port,
        threads=threads,
        device=device,
        host=listen or HOST,
        is_insecure=insecure,
        is_secured=listen is not None and not insecure,
        trackers=tuple(tracker),
        checkpoint_url=check_url(checkpoints or str(directory / "checkpoints")),
    )
    stopped = stop_on_signals()
    supervisor = Supervisor(config, stopped, say)
    try:
        with contextlib.suppress(Interrupted):
            supervisor.start()
            typer.echo(describe(supervisor))
            while not stopped.wait(CHECK_SECONDS):
                supervisor.check()
            say("stopping")
    except PartLost as lost:
        say(str(lost))
        raise typer.Exit(EXIT_FAILED) from None
    finally:
        supervisor.stop()


def stop_on_signals() -> threading.Event:
    """Set by SIGTERM and SIGINT, which then do nothing else."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


def describe(supervisor: Supervisor) -> str:
    """What runs and where; the last line is for the terminals of workers."""
    shards = ", ".join(shard.address for shard in supervisor.shards)
    line = supervisor.connection.secret
    told = (
        f" (kept in {supervisor.directory.connection}; it is a secret; administrators use file:"
        f"{supervisor.directory.admin})"
        if supervisor.connection.token
        else ""
    )
    return (
        f"coordinator  {supervisor.coordinator.address}\n"
        f"shards       {len(supervisor.shards)} ({shards})\n"
        f"dashboard    http://{supervisor.dashboard.address}\n"
        f"state        {supervisor.config.directory} (logs in {supervisor.directory.logs})\n"
        f"checkpoints  {supervisor.config.checkpoint_url}\n"
        f"ctrl-C stops all of it; workers need this line{told}:\n"
        f"export SHEEPFOLD={shlex.quote(line)}"
    )
