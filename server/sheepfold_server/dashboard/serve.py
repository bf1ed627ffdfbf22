"""Runs the dashboard process until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from sheepfold_server.dashboard.access.callers import Access
from sheepfold_server.dashboard.access.front import Sizes
from sheepfold_server.dashboard.access.headers import WithHeaders
from sheepfold_server.dashboard.app import create_app
from sheepfold_server.dashboard.follower import Follower
from sheepfold_server.dashboard.history.file import HistoryRefused
from sheepfold_server.dashboard.history.history import History
from sheepfold_server.dashboard.limits import LIMITS, Limits
from sheepfold_server.dashboard.listen import bind
from sheepfold_server.dashboard.live.feed import Feed
from sheepfold_server.dashboard.protocol import ImpatientProtocol
from sheepfold_server.dashboard.store import Store
from sheepfold_server.dashboard.trackers.choose import tracker_of
from sheepfold_server.dashboard.trackers.mirror import Mirror
from sheepfold_wire.connection import DEFAULT, Connection

log = logging.getLogger(__name__)

GRACE_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Tls:
    """How to serve by HTTPS; `renew` is called ten times a second and may load another certificate."""

    context: ssl.SSLContext
    renew: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class DashboardConfig:
    """What the dashboard process is started with."""

    coordinator: Connection | str = DEFAULT
    listen: str = "127.0.0.1:8070"
    trackers: tuple[str, ...] = ()
    """As `--tracker` names them."""
    history: Path | None = None
    """File of the history; None keeps it in memory."""
    access: Access = field(default_factory=Access)
    tls: Tls | None = None
    """None: plain HTTP."""
    limits: Limits = LIMITS


class _Loop(asyncio.SelectorEventLoop):
    """Where uvicorn's server gets TLS: uvicorn gives asyncio no deadlines of a handshake."""

    def __init__(self, tls: Tls | None, limits: Limits) -> None:
        super().__init__()
        seconds = limits.handshake_seconds
        deadlines = {"ssl_handshake_timeout": seconds, "ssl_shutdown_timeout": seconds}
        self._tls = {} if tls is None else {"ssl": tls.context, **deadlines}

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        return await super().create_server(*arguments, **(options | self._tls))


class Server(uvicorn.Server):
    """Says when it serves, flushes the feed meanwhile, and ends the streams before it waits for requests."""

    def __init__(self, store: Store, config: DashboardConfig, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                WithHeaders(Sizes(create_app(store, config.access, config.limits), config.limits)),
                http=partial(ImpatientProtocol, config.limits),  # type: ignore[arg-type]
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                proxy_headers=False,  # nothing depends on who a proxy says that a request is from
                h11_max_incomplete_event_size=config.limits.header_bytes,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._feed: Feed = store.feed
        self._tls, self._limits, self._on_ready = config.tls, config.limits, on_ready

    async def on_tick(self, counter: int) -> bool:  # called every 0.1 s
        self._feed.flush(time.monotonic())
        if self._tls is not None:
            self._tls.renew()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._feed.close()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def serve_on(self, bound: socket.socket) -> None:
        """Until it is told to exit."""
        with asyncio.Runner(loop_factory=lambda: _Loop(self._tls, self._limits)) as runner:
            runner.run(self.serve(sockets=[bound]))


def run_dashboard(config: DashboardConfig, on_ready: Callable[[str], None] = lambda address: None) -> int:
    """Serve until SIGTERM or SIGINT; `on_ready` is told the address once it serves.

    Raises CannotListen, HistoryRefused, TrackerMissing.
    """
    mirror = Mirror([tracker_of(text) for text in config.trackers])
    bound = bind(config.listen, config.limits.connections)
    try:
        history = History(config.history)
    except HistoryRefused:
        bound.close()
        raise
    host = config.listen.rpartition(":")[0]
    address = f"{host}:{bound.getsockname()[1]}"
    store = Store(history)
    follower = Follower(store, config.coordinator, mirror)
    follower.start()
    known = replace(config.access, hosts=(*config.access.hosts, host))
    server = Server(store, replace(config, access=known), lambda: on_ready(address))
    scheme = "http" if config.tls is None else "https"
    log.info("dashboard of the coordinator at %s listens on %s://%s", config.coordinator, scheme, address)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again once it has stopped
    try:
        server.serve_on(bound)
    finally:
        follower.close()
        mirror.close()
        history.close()
    return 0
