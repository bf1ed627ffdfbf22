"""Logging in by the page: a token, pasted into a form, becomes a session. No script is needed."""

from __future__ import annotations

import re
from html import escape
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from sheepfold_server.dashboard.access.gate import LOGIN, Keeper
from sheepfold_server.dashboard.access.sessions import session_number, set_cookie
from sheepfold_server.dashboard.access.table import READERS
from sheepfold_server.dashboard.limits import Limits
from sheepfold_wire.connection import is_loopback
from sheepfold_wire.errors import TokenRefused

# The form goes to the address it was read from, so that what stands behind # there is still there afterwards.
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><meta name="referrer" content="same-origin">
<title>Log in – sheepfold</title>
<link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/page.css"></head>
<body class="login"><main class="card"><h1>sheepfold</h1>
{refusal}<form method="post">
<input name="user" autocomplete="username" value="sheepfold" hidden>
<label for="token">Token of a reader, worker or administrator</label>
<input id="token" name="token" type="password" autocomplete="current-password" maxlength="1024"
required autofocus>
<button type="submit">Log in</button></form>
<p class="quiet">Make one with <code>sheepfold token --role reader</code>. It is good for this browser until
you log out, the token ends, or 12 hours have passed.</p></main></body></html>
"""


class TooLong(Exception):
    """More bytes than a form with a token has."""


def login_routes(keeper: Keeper | None, limits: Limits) -> APIRouter:
    """Without a keeper there is nothing to log in to, and the page is the dashboard itself."""
    routes = APIRouter(include_in_schema=False)

    @routes.get(LOGIN, response_class=HTMLResponse)
    def login() -> Response:
        return RedirectResponse("/", 303) if keeper is None else HTMLResponse(_PAGE.format(refusal=""))

    @routes.post(LOGIN)
    async def log_in(request: Request) -> Response:
        if keeper is None:
            return RedirectResponse("/", 303)
        if not _is_of_our_page(request):
            return _refused(403, "this form was sent by another site; open this page and log in here")
        try:
            token = await _token_of(request, limits.body_bytes)
            role = keeper.verify(token).role
        except TokenRefused as error:
            return _refused(401, error.message)
        except TooLong:
            told = f"at most {limits.body_bytes:,} bytes are read; paste one token alone"
            return _refused(413, told, {"Connection": "close"})
        if role not in READERS:
            return _refused(403, f"the token is that of a {role}, which is no reader; take another")
        return _to("/", set_cookie(keeper.sessions.open(token), _is_secure(request)))

    @routes.post("/logout")
    def log_out(request: Request) -> Response:
        if keeper is None:
            return RedirectResponse("/", 303)
        if not _is_of_our_page(request):
            return _refused(403, "this form was sent by another site; log out on the page itself")
        keeper.sessions.close(session_number(request.headers.get("cookie", "")))
        return _to(LOGIN, set_cookie("", _is_secure(request)))

    return routes


def _is_of_our_page(request: Request) -> bool:
    """Browsers say where a form comes from; old ones only by `Origin`."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(request.headers.get("origin", ""))
    return bool(origin.netloc) and origin.netloc.lower() == request.headers.get("host", "").lower()


async def _token_of(request: Request, bytes_max: int) -> str:
    """Raises TooLong; empty if there is not one token."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > bytes_max:
            raise TooLong
    try:
        found = parse_qs(body.decode("ascii"), max_num_fields=4).get("token", [])
    except ValueError:
        found = []
    return found[0].strip() if len(found) == 1 else ""


def _is_secure(request: Request) -> bool:
    """Whether the cookie is for HTTPS alone: everywhere but in plain text on loopback."""
    return request.url.scheme == "https" or not is_loopback(request.headers.get("host", ""))


def _to(path: str, cookie: str) -> Response:
    return RedirectResponse(path, 303, {"Set-Cookie": cookie})


def _refused(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    told = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(f"{why[0].upper()}{why[1:]}."))
    text = f'<p class="trouble" role="alert">{told}</p>\n'
    return HTMLResponse(_PAGE.format(refusal=text), status, headers)
