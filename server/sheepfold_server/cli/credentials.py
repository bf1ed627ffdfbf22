"""`sheepfold certs`, `token` and `audit`: what servers and callers prove themselves with, who did what."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from sheepfold_server.cli.address import METAVAR, connection
from sheepfold_server.cli.refusals import EXIT_FAILED, say
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

AUDIT_EPILOG = "Example: `sheepfold audit state/coordinator`"

MINUTES_MAX = 24 * 60
DAYS_MAX = 3650

_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

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
    """An address or name as a certificate can hold it; raises StartError."""
    try:
        if not ip_address(name.strip("[]")).is_unspecified:
            return name
    except ValueError:
        if _NAME.fullmatch(name):
            return name
    raise StartError(
        f"--name {name}: give what a server is reached at, without a port, e.g. 10.0.0.5, gpu-3.lab or "
        "*.shards.lab"
    )


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


def audit(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", file_okay=False, help="What the coordinator was given as --dir.")
    ],
) -> None:
    """Check that no line of the coordinator's audit log was changed, taken out or put in.

    Lines cut off at its end cannot be seen in the log alone: keep the hash that is printed, and compare.
    """
    from sheepfold_server.storage.audit import AuditError, check_log

    try:
        checked = check_log(directory)
    except AuditError as error:
        say(str(error))
        raise typer.Exit(EXIT_FAILED) from None
    except OSError as error:
        raise StartError(f"{directory}: its audit log cannot be read ({error.strerror})") from None
    typer.echo(f"{checked.lines} lines, each follows from those before it; newest hash {checked.newest_hash}")


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text.lower()) <= set("0123456789abcdef")
