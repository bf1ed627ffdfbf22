"""`sheepfold certs` and `sheepfold token`: what servers and callers prove themselves with."""

from __future__ import annotations

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sheepfold_server.cli.address import METAVAR, connection
from sheepfold_server.cli.listen import listen_host
from sheepfold_server.core.permissions import ALL_JOBS, Caller, Role
from sheepfold_server.shell.security import read_ca, read_signer
from sheepfold_server.shell.start import StartError
from sheepfold_wire.connection import Connection
from sheepfold_wire.ids import is_job_name

CERTS_EPILOG = "Example: `sheepfold certs --dir tls --name 10.0.0.5 --name '*.shards.lab'`"
TOKEN_EPILOG = (
    "Example: `sheepfold token --dir tls --role worker --job bert --address 10.0.0.5:7070` prints a line for "
    "$SHEEPFOLD."
)

MINUTES_MAX = 24 * 60
DAYS_MAX = 3650

Folder = Annotated[Path, typer.Option("--dir", metavar="DIR", file_okay=False, help="Folder of keys.")]


class CallerRole(StrEnum):
    """Roles that prove themselves by a token."""

    WORKER = "worker"
    READER = "reader"
    ADMIN = "admin"


def certs(
    names: Annotated[
        list[str],
        typer.Option("--name", metavar="ADDRESS", help="Address or name of a server, as in URLs; repeat."),
    ],
    directory: Folder = Path("tls"),
) -> None:
    """Make a private CA, certificates of coordinator and shards, and the keys that tokens are signed with.

    What is there of CA and keys stays; the servers' certificates are made anew, for these names and for two
    years. Running servers take them up by themselves. Keep `ca.key` and `token.key` to yourself: servers need
    neither, but for the coordinator, which changes join tokens for passes with `token.key`.
    """
    from sheepfold_server.shell.certificates import make_security

    make_security(directory, [_certified(name) for name in names])
    typer.echo(
        f"made {directory}/coordinator.pem, shard.pem and their keys, for {', '.join(names)}\n"
        f"ca=sha256:{read_ca(directory / 'ca.pem')}"
    )


def _certified(name: str) -> str:
    wildcard, _, rest = name.rpartition("*.")
    return name if wildcard == "" and rest != name else listen_host(name)


def token(
    role: Annotated[CallerRole, typer.Option(help="What the caller may do.")],
    directory: Folder = Path("tls"),
    job: Annotated[str, typer.Option(metavar="NAME", help="For this job alone; left out: for all.")] = "",
    subject: Annotated[str, typer.Option(metavar="WHO", help="For the audit log.")] = "",
    address: Annotated[
        Connection | None,
        typer.Option(
            metavar=METAVAR, parser=connection, help="Print the whole line, for this coordinator's HOST:PORT."
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="Time of a join token.")] = 365,
    minutes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MINUTES_MAX,
            help="Make a pass of that time instead: good for every call, and not renewed by clients.",
        ),
    ] = None,
    certificate: Annotated[
        str,
        typer.Option(metavar="SHA256", help="Bind it to a client certificate, by the SHA-256 of its DER."),
    ] = "",
) -> None:
    """Make a token, signed with `token.key` of the folder, and print it.

    A join token lives long and is good for one call: clients change it at the coordinator for passes of
    15 minutes by themselves. To take tokens back before their time, remove their key from --token-keys.
    """
    from sheepfold_server.shell.tokens import Grant, Use

    if job and not is_job_name(job):
        raise StartError(f"--job {job}: give the name of a job, or leave it out for all jobs")
    if certificate and not _is_sha256(certificate):
        raise StartError(f"--certificate has {len(certificate)} characters, give 64 hex digits")
    signer = read_signer(directory / "token.key", "--dir")
    now = time.time()
    seconds = days * 86_400 if minutes is None else minutes * 60
    use = Use.JOIN if minutes is None else Use.PASS
    caller = Caller(Role(role.value), job or ALL_JOBS, subject[:64])
    made = signer.sign(Grant(caller, use, now + seconds, certificate.lower()), now)
    if address is None:
        typer.echo(made)
        return
    where = replace(address, ca=address.ca or read_ca(directory / "ca.pem"), token=made)
    typer.echo(where.secret)


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text.lower()) <= set("0123456789abcdef")
