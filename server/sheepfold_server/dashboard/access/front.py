"""What is refused before anybody asks who it is: wrong names, too many bytes. And what a failure may tell."""

from __future__ import annotations

import logging
import secrets
from ipaddress import IPv6Address, ip_address

from fastapi.responses import JSONResponse

from sheepfold_server.dashboard.access.headers import Asgi, Message, Receive, Send
from sheepfold_server.dashboard.limits import Limits

log = logging.getLogger(__name__)

HEALTH = frozenset({"/healthz", "/readyz"})
"""Asked for by whatever address a pod has."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class KnownHosts:
    """A page of another site whose name is made to lead here (DNS rebinding) still says its own name."""

    def __init__(self, app: Asgi, hosts: tuple[str, ...]) -> None:
        self._app = app
        self._hosts = LOOPBACK | {plain_host(host) for host in hosts}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, scope: Message) -> JSONResponse | None:
        if scope["path"] in HEALTH:
            return None
        sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        host = plain_host(_without_port(sent[0])) if len(sent) == 1 else ""
        address = (scope.get("server") or ("",))[0]
        if host in self._hosts or (host and host == plain_host(address)):
            return None
        return _closing(
            421,
            "this server is not known by the name in the request's Host header; if it is its own, start "
            "`sheepfold dashboard` with --host NAME (in the chart: dashboard.hosts)",
        )


class Sizes:
    """Headers and bodies up to a limit. uvicorn has one for headers in pieces, and none for bodies."""

    def __init__(self, app: Asgi, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, scope: Message) -> JSONResponse | None:
        headers, most = scope["headers"], self._limits
        size = len(scope["path"]) + len(scope["query_string"]) + sum(len(k) + len(v) + 4 for k, v in headers)
        if size > most.header_bytes:
            return _closing(431, f"{size:,} bytes of headers, at most {most.header_bytes:,} are read")
        length = b"".join(value for name, value in headers if name == b"content-length")
        if length.isdigit() and int(length) > most.body_bytes:
            return _closing(413, f"a body of {int(length):,} bytes, at most {most.body_bytes:,} are read")
        return None


def _closing(status: int, text: str) -> JSONResponse:
    return JSONResponse({"detail": text}, status, {"Connection": "close"})


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and (":" not in name or name.endswith("]")) else host


def plain_host(text: str) -> str:
    """One way to write each host: names in lower case, addresses as numbers."""
    name = text.strip().rstrip(".").lower()
    try:
        found = ip_address(name.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return name
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)


class Incidents:
    """A failure of ours is one number to the caller, and a traceback under that number in our log."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            number = secrets.token_hex(6)
            log.exception("incident %s while answering %s %r", number, scope.get("method"), scope.get("path"))
            text = f"the dashboard failed; its log says why under incident {number}"
            if has_begun:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await _closing(500, text)(scope, receive, send)
