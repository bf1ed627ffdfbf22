"""Where the coordinator is: `sheepfold://host:port?ca=...&token=...`, or `local:` for the same process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sheepfold_wire.connection import (
    DEFAULT,
    VARIABLE,
    BadAddress,
    Connection,
    bad_address,
    parse_connection,
    read_options,
)

LOCAL_SHARDS_MAX = 64

__all__ = ["DEFAULT", "VARIABLE", "Address", "BadAddress", "find_address", "parse_address"]


@dataclass(frozen=True, slots=True)
class Address:
    """`connection` is for gRPC, None in process; `shards` is the number to start in process."""

    scheme: Literal["grpc", "local"]
    connection: Connection | None = None
    shards: int = 1

    def __str__(self) -> str:
        """Without the token."""
        return f"local:?shards={self.shards}" if self.connection is None else str(self.connection)

    @property
    def target(self) -> str:
        """HOST:PORT, empty in process."""
        return "" if self.connection is None else self.connection.target

    @property
    def network(self) -> str:
        """From where shards are reached."""
        return "" if self.connection is None else self.connection.network


def find_address(given: str | None = None, environ: Mapping[str, str] = os.environ) -> Address:
    """The address given, else $SHEEPFOLD, else this machine; raises BadAddress."""
    if given is not None:
        return parse_address(given, "address")
    if environ.get(VARIABLE):
        return parse_address(environ[VARIABLE], f"${VARIABLE}")
    return parse_address(DEFAULT, "address")


def parse_address(text: str, source: str = "address") -> Address:
    """`source` names where the text came from. Raises BadAddress."""
    body, _, query = text.strip().partition("?")
    if not body.startswith("local:"):
        return Address("grpc", parse_connection(text, source))
    options = read_options(query, ("shards",), text, source)
    if body != "local:":
        raise bad_address("nothing may stand between 'local:' and '?'; give local:?shards=2", text, source)
    return Address("local", shards=_shards(options.get("shards", "1"), text, source))


def _shards(value: str, text: str, source: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= LOCAL_SHARDS_MAX:
        raise bad_address(f"shards={value[:8]!r}, give a number from 1 to {LOCAL_SHARDS_MAX}", text, source)
    return int(value)
