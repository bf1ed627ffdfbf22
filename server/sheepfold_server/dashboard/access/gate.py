"""The one place where callers of the dashboard are told apart, before anything of an answer is made."""

from __future__ import annotations

import asyncio

from fastapi.responses import JSONResponse, RedirectResponse, Response

from sheepfold_server.dashboard.access.callers import EVERYONE, Caller, Verify
from sheepfold_server.dashboard.access.headers import Asgi, Message, Receive, Send
from sheepfold_server.dashboard.access.sessions import Sessions, session_number
from sheepfold_server.dashboard.access.table import Row, Table
from sheepfold_wire.errors import TokenRefused

BEARER = "Bearer "
LOGIN = "/login"
NOTHING_HERE = "there is nothing at this address; /docs says what there is"
_REMEDY = "send `Authorization: Bearer TOKEN`, or log in at /login"


class Keeper:
    """Who a request comes from, by its token or its session."""

    def __init__(self, verify: Verify, sessions: Sessions) -> None:
        self.verify, self.sessions = verify, sessions

    def caller(self, headers: list[tuple[bytes, bytes]]) -> Caller:
        """Raises TokenRefused."""
        sent = [value.decode("latin-1") for name, value in headers if name == b"authorization"]
        return self.verify(_bearer(sent) if sent else self._session_token(headers))

    def _session_token(self, headers: list[tuple[bytes, bytes]]) -> str:
        cookies = "; ".join(value.decode("latin-1") for name, value in headers if name == b"cookie")
        number = session_number(cookies)
        token = self.sessions.token(number) if number else None
        if token is None:
            what = "the session of this browser is over" if number else "this request carries no token"
            raise TokenRefused(f"{what}; {_REMEDY}")
        return token


def _bearer(sent: list[str]) -> str:
    if len(sent) != 1 or not sent[0].startswith(BEARER):
        raise TokenRefused(f"the Authorization header holds no token; {_REMEDY}")
    return sent[0].removeprefix(BEARER)


class Gate:
    """Lets pass whom the table lets; without a keeper everyone is let in, and nothing is asked."""

    def __init__(self, app: Asgi, keeper: Keeper | None, table: Table, answer_seconds: float) -> None:
        self._app, self._keeper, self._table = app, keeper, table
        self._answer_seconds = answer_seconds

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # a WebSocket: there is none here
        scope.setdefault("state", {})["caller"] = EVERYONE
        if self._keeper is not None:
            row, job = self._table.find(scope["method"], scope["path"])
            if row is None or not row.is_open:
                try:
                    caller = self._keeper.caller(scope["headers"])
                except TokenRefused as error:
                    return await _unknown(error, row)(scope, receive, send)
                refusal = _refusal(caller, row, job)
                if refusal is not None:
                    return await refusal(scope, receive, send)
                scope["state"]["caller"] = caller
        await _within(self._answer_seconds, self._app, scope, receive, send)


def _unknown(error: TokenRefused, row: Row | None) -> Response:
    if row is not None and row.is_page:
        return RedirectResponse(LOGIN, 303)
    return JSONResponse({"detail": error.message}, 401, {"WWW-Authenticate": BEARER.strip()})


def _refusal(caller: Caller, row: Row | None, job: str | None) -> Response | None:
    if row is None:
        return JSONResponse({"detail": NOTHING_HERE}, 404)
    if caller.role not in row.roles:
        known = ", ".join(sorted(row.roles))
        return JSONResponse({"detail": f"this is for {known}, and the token is that of a {caller.role}"}, 403)
    if row.needs_all_jobs and caller.is_scoped:
        text = f"this is about all jobs, and the token is for job {caller.job!r}; use one for all jobs"
        return JSONResponse({"detail": text}, 403)
    if job is not None and not caller.sees(job):
        return JSONResponse({"detail": str(caller.absent(job))}, 404)
    return None


async def _within(seconds: float, app: Asgi, scope: Message, receive: Receive, send: Send) -> None:
    """A stream of events that takes longer ends there, whole as far as it goes."""
    has_begun = is_complete = False

    async def watched(message: Message) -> None:
        nonlocal has_begun, is_complete
        has_begun = True
        is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send(message)

    try:
        async with asyncio.timeout(seconds) as limit:
            await app(scope, receive, watched)
    except TimeoutError:
        if not limit.expired():
            raise
        if not has_begun:
            await JSONResponse({"detail": f"no answer in {seconds:g} s"}, 503)(scope, receive, send)
        elif not is_complete:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
