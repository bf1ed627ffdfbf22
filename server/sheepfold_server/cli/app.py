"""The command tree."""

from __future__ import annotations

from typing import Annotated

import typer

from sheepfold_server.cli import (
    checkpoints,
    credentials,
    doctor,
    export,
    jobs,
    kernels,
    plan,
    replay,
    roles,
    status,
    up,
)
from sheepfold_server.cli.demo import command as demo
from sheepfold_server.cli.refusals import Group
from sheepfold_server.cli.support import command as support
from sheepfold_server.shell.about import installed_version

app = typer.Typer(
    name="sheepfold",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with `sheepfold demo`, or with `sheepfold up` and `sheepfold job example`.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sheepfold {installed_version() or 'unknown (not installed)'}")
        raise typer.Exit


@app.callback()
def sheepfold(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A sharded parameter server that keeps the state of the LAMB optimizer.

    A coordinator and its shards hold weights and moments; workers, which may come and go, push gradients and
    pull weights. Exit codes: 0 done, 1 what was asked for failed, 2 refused, with one line saying why.
    """


app.command("demo", rich_help_panel="Try it", epilog=demo.EPILOG)(demo.demo)
app.command("up", rich_help_panel="Try it", epilog=up.EPILOG)(up.up)
app.add_typer(jobs.app, name="job", rich_help_panel="Jobs")
app.command("status", rich_help_panel="Jobs", epilog=status.EPILOG)(status.status)
app.command("doctor", rich_help_panel="Jobs", epilog=doctor.EPILOG)(doctor.doctor)
app.add_typer(checkpoints.app, name="checkpoint", rich_help_panel="Jobs")
app.command("replay", rich_help_panel="Jobs", epilog=replay.EPILOG)(replay.replay)
app.command("support-bundle", rich_help_panel="Jobs", epilog=support.EPILOG)(support.support_bundle)
app.command("export", rich_help_panel="Jobs", epilog=export.EPILOG)(export.export)
app.command("kernels", rich_help_panel="Jobs", epilog=kernels.EPILOG)(kernels.kernels)
app.command("plan", rich_help_panel="Jobs", epilog=plan.EPILOG)(plan.plan)
app.command("certs", rich_help_panel="Who may call", epilog=credentials.CERTS_EPILOG)(credentials.certs)
app.command("token", rich_help_panel="Who may call", epilog=credentials.TOKEN_EPILOG)(credentials.token)
app.command("audit", rich_help_panel="Who may call", epilog=credentials.AUDIT_EPILOG)(credentials.audit)
app.command("coordinator", rich_help_panel="One role per process", epilog=roles.COORDINATOR_EPILOG)(
    roles.coordinator
)
app.command("shard", rich_help_panel="One role per process", epilog=roles.SHARD_EPILOG)(roles.shard)
app.command("dashboard", rich_help_panel="One role per process", epilog=roles.DASHBOARD_EPILOG)(
    roles.dashboard
)
