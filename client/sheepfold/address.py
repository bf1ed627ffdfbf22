"""Where the coordinator is: `host:port`, `sheepfold://host:port`, or `local:` for the same process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl

VARIABLE = "SHEEPFOLD"
PORT = 7070
DEFAULT = f"127.0.0.1:{PORT}"
LOCAL_SHARDS_MAX = 64

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+)(:(?P<port>[0-9]{1,5}))?")
_FORMS = "give host:port, sheepfold://host:port or local:?shards=2"
_QUERY_KEYS: dict[str, tuple[str, ...]] = {"grpc": (), "local": ("shards",)}


class BadAddress(ValueError):
    """An address that names nothing; the text says what to give instead."""


@dataclass(frozen=True, slots=True)
class Address:
    """`target` is host:port for gRPC, empty in process; `shards` is the number to start in process."""

    scheme: Literal["grpc", "local"]
    target: str = ""
    shards: int = 1

    def __str__(self) -> str:
        return self.target if self.scheme == "grpc" else f"local:?shards={self.shards}"


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
    is_local = body.startswith("local:")
    options = _options("local" if is_local else "grpc", query, text, source)
    if is_local:
        if body != "local:":
            raise BadAddress(f"{source}={text!r}: nothing may stand between 'local:' and '?'; {_FORMS}")
        return Address("local", shards=_shards(options.get("shards", "1"), text, source))
    return Address("grpc", _target(body, text, source))


def _options(scheme: str, query: str, text: str, source: str) -> dict[str, str]:
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError:
        raise BadAddress(f"{source}={text!r}: {query!r} is no list of key=value; {_FORMS}") from None
    known = _QUERY_KEYS[scheme]
    for key in options:
        if key not in known:
            allowed = f"known here: {', '.join(known)}" if known else "none is known for this kind of address"
            raise BadAddress(f"{source}={text!r}: unknown key {key!r}, {allowed}; remove it")
    return options


def _shards(value: str, text: str, source: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= LOCAL_SHARDS_MAX:
        raise BadAddress(f"{source}={text!r}: shards={value!r}, give a number from 1 to {LOCAL_SHARDS_MAX}")
    return int(value)


def _target(body: str, text: str, source: str) -> str:
    scheme, found, rest = body.partition("://")
    if found and scheme != "sheepfold":
        raise BadAddress(f"{source}={text!r}: scheme {scheme!r} is unknown; {_FORMS}")
    match = _HOST_PORT.fullmatch((rest if found else body).removesuffix("/"))
    if match is None:
        raise BadAddress(f"{source}={text!r}: this is no host and port; {_FORMS}")
    port = int(match["port"] or PORT)
    if not 1 <= port <= 65_535:
        raise BadAddress(f"{source}={text!r}: port {port}, give 1 to 65535")
    return f"{match['host']}:{port}"
