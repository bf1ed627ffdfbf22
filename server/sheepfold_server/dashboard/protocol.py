"""uvicorn's HTTP protocol, made impatient: it has no deadline for anything that a client still owes us."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from sheepfold_server.dashboard.access.headers import ENCODED_HEADERS
from sheepfold_server.dashboard.limits import Limits


class ImpatientProtocol(H11Protocol):
    """One connection. What is late is answered 408 and closed, and waiting ones make room for others."""

    def __init__(
        self,
        limits: Limits,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._owed = ""
        """What the client owes us: `header`, `body` or nothing."""
        self._owed_since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._reading_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()
        if len(self.connections) > self._limits.connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._deadline, self._reading_deadline):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading_deadline = self.loop.call_later(self._limits.reading_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading_deadline is not None:
            self._reading_deadline.cancel()
            self._reading_deadline = None

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what h11 does not understand, or finds too long."""
        most = f"{self._limits.header_bytes:,}"
        self._refuse(400, f"this is no HTTP request, or one whose header has more than {most} bytes")

    def _look(self) -> None:
        """Set the deadline anew where the client now owes us something else."""
        owed = {h11.IDLE: "header", h11.SEND_BODY: "body"}.get(self.conn.their_state, "")
        if self.transport.is_closing() or owed == self._owed:
            return
        self._owed, self._owed_since = owed, self.loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if owed:
            seconds = self._limits.header_seconds if owed == "header" else self._limits.body_seconds
            self._deadline = self.loop.call_later(seconds, self._late, seconds)

    def _late(self, seconds: float) -> None:
        self._refuse(408, f"the {self._owed} of the request is not complete after {seconds:g} s")

    def _make_room(self) -> None:
        """An idle connection costs an attacker nothing, so it is worth nothing: the oldest one goes."""
        ours = (each for each in self.connections if isinstance(each, ImpatientProtocol))
        waiting = (each for each in ours if each._owed and not each.transport.is_closing())
        oldest = min(waiting, key=lambda each: each._owed_since, default=self)
        if oldest is self:
            self._refuse(503, f"all {self._limits.connections} connections are busy; try again later")
        else:
            oldest.transport.abort()

    def _refuse(self, status: int, text: str) -> None:
        """Answer and close; only close where an answer is under way already."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the application's own answer would come second
            cycle.message_event.set()
        headers = [*ENCODED_HEADERS.items(), (b"content-type", b"text/plain"), (b"connection", b"close")]
        response = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
        for event in (response, h11.Data(data=f"{text}\n".encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
