"""Addresses on the command line."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from sheepfold_wire.connection import DEFAULT as DEFAULT_LISTEN
from sheepfold_wire.connection import VARIABLE, BadAddress, Connection, parse_connection

DEFAULT = Connection(DEFAULT_LISTEN)
METAVAR = "ADDRESS"

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+):(?P<port>[0-9]{1,5})")


def host_port(text: str) -> str:
    """An address to listen on, or that a role is reached at."""
    match = _HOST_PORT.fullmatch(text.strip())
    if match is None or int(match["port"]) > 65_535:
        raise typer.BadParameter(f"{text}: give HOST:PORT, e.g. {DEFAULT}")
    return match[0]


def connection(given: str | Connection) -> Connection:
    """The coordinator's address, in every form that $SHEEPFOLD takes."""
    if isinstance(given, Connection):  # the default
        return given
    if given.strip().startswith("local:"):
        raise typer.BadParameter("a server within a training script cannot be asked; give HOST:PORT")
    try:
        return parse_connection(given)
    except BadAddress as error:
        raise typer.BadParameter(str(error)) from None


Address = Annotated[
    Connection,
    typer.Option(
        "--address",
        "-a",
        metavar=METAVAR,
        envvar=VARIABLE,
        parser=connection,
        help="Address of the coordinator: HOST:PORT, or what stands in a worker's $SHEEPFOLD.",
    ),
]

Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        min=0,
        max=3600,
        metavar="SECONDS",
        help="Wait up to that long for the coordinator to come up.",
    ),
]
