"""Addresses on the command line."""

from __future__ import annotations

import re
from typing import Annotated

import typer

DEFAULT = "127.0.0.1:7070"

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+):(?P<port>[0-9]{1,5})")


def host_port(text: str) -> str:
    """`host:port` of an address; `sheepfold://` may stand before it, as in a worker's $SHEEPFOLD."""
    bare = text.strip().removeprefix("sheepfold://").removesuffix("/")
    if bare.startswith("local:"):
        raise typer.BadParameter(f"{text}: a server within a training script cannot be asked; give HOST:PORT")
    match = _HOST_PORT.fullmatch(bare)
    if match is None or int(match["port"]) > 65_535:
        raise typer.BadParameter(f"{text}: give HOST:PORT, e.g. {DEFAULT}")
    return bare


Address = Annotated[
    str,
    typer.Option(
        "--address",
        "-a",
        metavar="HOST:PORT",
        envvar="SHEEPFOLD",
        callback=host_port,
        help="Address of the coordinator.",
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
