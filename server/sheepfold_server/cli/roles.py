"""`sheepfold coordinator`, `shard` and `dashboard`: one role per process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sheepfold_server.cli.address import DEFAULT, METAVAR, connection, host_port
from sheepfold_server.cli.checkpoints import check_url
from sheepfold_server.cli.listen import (
    BehindProxy,
    Hosts,
    Insecure,
    TlsCa,
    TlsCert,
    TlsKey,
    TokenKeys,
)
from sheepfold_server.cli.trackers import Trackers
from sheepfold_server.core.quotas import parse_quotas
from sheepfold_server.shell.child import announcer
from sheepfold_server.shell.logs import log_to_stderr
from sheepfold_server.shell.security import (
    Security,
    SecurityFiles,
    check_listen,
    read_ca,
    read_security,
    read_token,
)
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.supervisor import STAGING_BYTES
from sheepfold_wire.connection import VARIABLE, Connection

COORDINATOR_EPILOG = "Example: `sheepfold coordinator --shards 4 --listen 127.0.0.1:7070`"
SHARD_EPILOG = "Example: `sheepfold shard --index 0 --shards 4 --coordinator 127.0.0.1:7070`"
DASHBOARD_EPILOG = "Example: `sheepfold dashboard --coordinator 127.0.0.1:7070 --listen 127.0.0.1:8070`"

AnnounceFd = Annotated[int, typer.Option("--announce-fd", hidden=True)]
Coordinator = Annotated[
    Connection,
    typer.Option(metavar=METAVAR, envvar=VARIABLE, parser=connection, help="Address of the coordinator."),
]
DataDirectory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        file_okay=False,
        help="Keep what must outlive this process here, for one process at a time; left out: in memory.",
    ),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Keep checkpoints of all jobs here: a directory or store (s3://...) that all shards reach by "
        "the same name; left out: none.",
    ),
]
HealthListen = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        help="Serve grpc.health.v1 and nothing else here too, in plain text, for probes that know no TLS.",
    ),
]
Shards = Annotated[int, typer.Option(min=1, max=64, help="Number of shards, the same for all roles.")]


def _listen(help_text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(metavar="HOST:PORT", callback=host_port, help=help_text)
    return option


def _optional(text: str) -> str:
    return host_port(text) if text else ""


def coordinator(
    shards: Shards,
    listen: Annotated[str, _listen("Address to serve on; port 0 takes a free one.")] = str(DEFAULT),
    directory: DataDirectory = None,
    checkpoints: Checkpoints = None,
    health_listen: HealthListen = "",
    insecure: Insecure = False,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    token_keys: TokenKeys = None,
    token_signer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Private key of one of --token-keys: change join tokens for passes with it."
        ),
    ] = None,
    servers_listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Second address, for shards, which show a certificate there; needed with --token-keys.",
        ),
    ] = "",
    quota: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUE",
            help="Bound of each job: parameters, workers, steps_per_second; or of all: jobs; repeat.",
        ),
    ] = [],  # noqa: B006
    announce_fd: AnnounceFd = -1,
) -> None:
    """Run the coordinator, which decides for all shards at once which gradients form a step."""
    from sheepfold_server.shell.coordinator_main import CoordinatorConfig, run_coordinator

    security = read_security(SecurityFiles(tls_cert, tls_key, tls_ca, token_keys, token_signer))
    check_listen(listen, insecure, security)
    _check_servers_listen(servers_listen, security)
    log_to_stderr("coordinator")
    url = "" if checkpoints is None else check_url(checkpoints)
    quotas = parse_quotas(quota)
    health = _optional(health_listen)
    config = CoordinatorConfig(shards, listen, security, directory, url, servers_listen, quotas, health)
    raise typer.Exit(run_coordinator(config, announcer(announce_fd)))


def _check_servers_listen(servers_listen: str, security: Security) -> None:
    """Raises StartError."""
    if servers_listen:
        host_port(servers_listen)
    if bool(servers_listen) != bool(security.verifier):
        raise StartError(
            "with --token-keys shards prove themselves by a certificate, on an address of their own: give "
            "--token-keys and --servers-listen HOST:PORT together, or neither"
        )
    if servers_listen and not security.has_tls:
        raise StartError("--servers-listen asks for certificates: give --tls-cert, --tls-key, --tls-ca too")


def shard(
    index: Annotated[int, typer.Option(min=0, max=63, help="Number of this shard, from 0.")],
    shards: Shards,
    coordinator: Coordinator = DEFAULT,
    listen: Annotated[str, _listen("Address to serve on; port 0 takes a free one.")] = "127.0.0.1:0",
    advertise: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Address workers reach it at, where that is not the one it listens on."
        ),
    ] = "",
    external: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Address that workers with network=external in theirs reach it at."
        ),
    ] = "",
    device: Annotated[
        str, typer.Option(help="Device that holds weights and moments: cpu, cuda or cuda:N.")
    ] = "cpu",
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of the optimizer step.")] = 1,
    staging_bytes: Annotated[
        int,
        typer.Option(
            min=4096,
            metavar="BYTES",
            help="Memory for gradients that wait to be folded, shared equally by jobs that have not ended.",
        ),
    ] = STAGING_BYTES,
    directory: DataDirectory = None,
    health_listen: HealthListen = "",
    insecure: Insecure = False,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    token_keys: TokenKeys = None,
    announce_fd: AnnounceFd = -1,
) -> None:
    """Run one shard, which holds a part of the weights and moments and applies each step to it."""
    from sheepfold_server.shell.shard_main import run_shard
    from sheepfold_server.shell.shard_process import ShardConfig

    if index >= shards:
        raise typer.BadParameter(f"--index {index}: with --shards {shards} give 0 to {shards - 1}")
    security = read_security(SecurityFiles(tls_cert, tls_key, tls_ca, token_keys))
    check_listen(listen, insecure, security)
    log_to_stderr(f"shard-{index}")
    config = ShardConfig(
        shard=index,
        shard_count=shards,
        listen=listen,
        coordinator=replace(coordinator, ca=security.ca or coordinator.ca, token=""),
        advertise=advertise,
        device=device,
        threads=threads,
        staging_bytes=staging_bytes,
        external=_optional(external),
        security=security,
        directory=directory,
        health_listen=_optional(health_listen),
    )
    raise typer.Exit(run_shard(config, announcer(announce_fd)))


def dashboard(
    coordinator: Coordinator = DEFAULT,
    listen: Annotated[
        str, _listen("Address to serve the page and the API on; port 0 takes a free one.")
    ] = "127.0.0.1:8070",
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Keep steps, events, alerts in this file, for one dashboard at a time; left out: in memory.",
        ),
    ] = None,
    tracker: Trackers = [],  # noqa: B006
    insecure: Insecure = False,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_keys: TokenKeys = None,
    behind_proxy: BehindProxy = False,
    host: Hosts = [],  # noqa: B006
    tls_ca: TlsCa = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Token of a reader, to show to the coordinator."),
    ] = None,
    announce_fd: AnnounceFd = -1,
) -> None:
    """Run the dashboard: a page, JSON under /api/v1 and a reference of it under /docs."""
    from sheepfold_server.dashboard.access.callers import Access
    from sheepfold_server.dashboard.serve import DashboardConfig, Tls, run_dashboard
    from sheepfold_server.shell.https import HttpCallers, check_http_listen, read_https

    https = read_https(tls_cert, tls_key)
    callers = None if token_keys is None else HttpCallers(token_keys)
    check_http_listen(
        listen, insecure, behind_proxy, has_tls=https is not None, has_login=callers is not None
    )
    log_to_stderr("dashboard")
    ca = coordinator.ca if tls_ca is None else read_ca(tls_ca)
    token = coordinator.token if token_file is None else read_token(token_file)
    called = replace(coordinator, ca=ca, token=token)
    access = Access(None if callers is None else callers.caller, tuple(host))
    tls = None if https is None else Tls(https.context, https.renew)
    config = DashboardConfig(called, listen, tuple(tracker), history, access, tls)
    raise typer.Exit(run_dashboard(config, announcer(announce_fd)))
