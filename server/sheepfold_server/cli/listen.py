"""Where servers listen, and with what security."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from sheepfold_server.shell.start import StartError

Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Serve another address than loopback in plain text, to whoever asks."),
]
TlsCert = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Serve by TLS with this certificate, PEM; with --tls-key.")
]
TlsKey = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Private key of --tls-cert, PEM without a password.")
]
TlsCa = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Certificate that signs those of coordinator and shards, one, PEM."),
]
TokenKeys = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Ask every call for a token signed by one of these public keys, PEM; with TLS."
    ),
]

BehindProxy = Annotated[
    bool,
    typer.Option(
        "--behind-proxy", help="Serve plain HTTP beyond loopback, with a login: a proxy in front ends TLS."
    ),
]
Hosts = Annotated[
    list[str],
    typer.Option(
        "--host",
        metavar="NAME",
        help="A name of this server in URLs, as behind an ingress, besides loopback and --listen; repeat.",
    ),
]

_NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z_-][A-Za-z0-9_.-]*")  # of numbers and dots alone: an address


def listen_host(text: str) -> str:
    """The host of `sheepfold up --listen`, IPv6 in brackets. It is also what workers are told to go to."""
    try:
        found = ip_address(text.strip("[]"))
    except ValueError:
        if not _NAME.fullmatch(text):
            raise StartError(
                f"--listen {text}: give an address or a name of this machine without a port, e.g. 10.0.0.5; "
                "ports are given with --port and --dashboard-port"
            ) from None
        return text
    if found.is_unspecified:
        raise StartError(
            f"--listen {text}: workers are sent to the address that is listened on, and nobody can reach "
            "this one; give the address of this machine that workers reach, e.g. 10.0.0.5"
        )
    return f"[{found}]" if found.version == 6 else str(found)
