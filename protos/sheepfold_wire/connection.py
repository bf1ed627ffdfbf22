"""One string that is enough to connect: `sheepfold://HOST:PORT?ca=sha256:HEX&token=TOKEN`.

`file:PATH` stands for the string in that file, and without a query it is a plain HOST:PORT. The token is a
secret: `str` and every error mask it, `Connection.secret` alone spells it out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qsl

VARIABLE = "SHEEPFOLD"
PORT = 7070
DEFAULT = f"127.0.0.1:{PORT}"
NETWORKS = ("cluster", "external")
KEYS = ("ca", "token", "network")
FILE_BYTES_MAX = 4096

TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,1024}")
"""What needs no escapes in a query, a shell or a header."""

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+)(:(?P<port>[0-9]{1,5}))?")
_CA = re.compile(r"sha256:(?P<digest>[0-9A-Fa-f]{64})")
_SHOWN = re.compile(r"ca=sha256:[0-9A-Fa-f]{64}|(network|shards)=[\w-]*|ca|token|network|shards")
_FORMS = "give HOST:PORT, sheepfold://HOST:PORT?ca=...&token=..., or file:PATH of a file that holds it"


class BadAddress(ValueError):
    """An address that names nothing; the text says what to give instead."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the coordinator is, who may speak for it, and what it is shown."""

    target: str
    """HOST:PORT."""
    ca: str = ""
    """SHA-256 of the certificate (DER) that signs the servers', 64 hex digits; empty: plain text."""
    token: str = field(default="", repr=False)
    network: str = ""
    """From where shards are reached: cluster or external; empty: cluster."""

    def __str__(self) -> str:
        return self._text("***")

    @property
    def secret(self) -> str:
        """With the token, for files and terminals of the user's own."""
        return self._text(self.token)

    def _text(self, token: str) -> str:
        values = {
            "ca": self.ca and f"sha256:{self.ca}",
            "token": self.token and token,
            "network": self.network,
        }
        query = "&".join(f"{key}={value}" for key, value in values.items() if value)
        return f"sheepfold://{self.target}?{query}" if query else self.target


def parse_connection(text: str, source: str = "address") -> Connection:
    """`source` names where the text came from. Raises BadAddress."""
    given = text.strip()
    if given.startswith("file:"):
        source = f"{source}={masked(given)}"
        given = _content(given.removeprefix("file:"), source)
    body, _, query = given.partition("?")
    options = read_options(query, KEYS, given, source)
    target, ca, token = _target(body, given, source), options.get("ca", ""), options.get("token", "")
    match = _CA.fullmatch(ca)
    if "ca" in options and match is None:
        raise bad_address(f"ca has {len(ca)} characters, give sha256: and 64 hex digits", given, source)
    if "token" in options and not TOKEN.fullmatch(token):
        why = f"token has {len(token)} characters, give 16 to 1024: letters, digits, - _ . ~"
        raise bad_address(why, given, source)
    if options.get("network", NETWORKS[0]) not in NETWORKS:
        raise bad_address(f"network, give {' or '.join(NETWORKS)}", given, source)
    if token and match is None and not is_loopback(target):
        why = (
            "the token would cross the network in plain text; take the whole line that `sheepfold up` prints"
        )
        raise bad_address(f"{why}, quotes included: it has ca=sha256:...", given, source)
    return Connection(target, match["digest"].lower() if match else "", token, options.get("network", ""))


def read_options(query: str, known: tuple[str, ...], text: str, source: str) -> dict[str, str]:
    """The keys and values after `?`; raises BadAddress for one that is not known."""
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError:
        raise bad_address(f"what follows ? is no list of key=value; {_FORMS}", text, source) from None
    for key in options:
        if key not in known:
            named = repr(key) if re.fullmatch(r"\w{1,16}", key) else f"of {len(key)} characters"
            raise bad_address(f"unknown key {named}, known here: {', '.join(known)}; remove it", text, source)
    return options


def bad_address(why: str, text: str, source: str) -> BadAddress:
    """One sentence: where the address came from, the address without its secrets, what is wrong."""
    return BadAddress(f"{source}={masked(text)!r}: {why}")


def masked(text: str) -> str:
    """An address as it may be shown: without values of keys that are not known to be harmless."""
    text = re.sub(r"(?i)(token\s*[=:]\s*)[^&\s]+", r"\1***", text)
    body, mark, query = text.partition("?")
    pieces = query.split("&") if mark else []
    shown = [piece if _SHOWN.fullmatch(piece) else _masked_piece(piece) for piece in pieces]
    return re.sub(r"//[^/]*@", "//***@", body) + mark + "&".join(shown)


def _masked_piece(piece: str) -> str:
    name = re.match(r"\w{1,16}=", piece)
    return f"{name[0] if name else ''}***"


def is_loopback(target: str) -> bool:
    """Whether HOST:PORT never leaves the machine that uses it."""
    host = target.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _content(path: str, source: str) -> str:
    try:
        with Path(path).expanduser().open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1).decode("utf-8").strip()
    except (OSError, ValueError, RuntimeError) as error:  # not there, no text, no home
        why = getattr(error, "strerror", None) or "it is no text"
        raise BadAddress(
            f"{source}: the file cannot be read ({why}); `sheepfold up --listen` writes one, `connection` in "
            "its state directory"
        ) from None
    if len(text.splitlines()) != 1 or len(text) > FILE_BYTES_MAX or text.startswith("file:"):
        raise BadAddress(f"{source}: the file must hold one line, sheepfold://HOST:PORT?ca=...&token=...")
    return text


def _target(body: str, text: str, source: str) -> str:
    scheme, found, rest = body.partition("://")
    if found and scheme != "sheepfold":
        raise bad_address(f"scheme {scheme!r} is unknown; {_FORMS}", text, source)
    match = _HOST_PORT.fullmatch((rest if found else body).removesuffix("/"))
    if match is None:
        raise bad_address(f"this is no host and port; {_FORMS}", text, source)
    port = int(match["port"] or PORT)
    if not 1 <= port <= 65_535:
        raise bad_address(f"port {port}, give 1 to 65535", text, source)
    return f"{match['host']}:{port}"
