"""Runs the dashboard process until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from sheepfold_server.dashboard.app import create_app
from sheepfold_server.dashboard.follower import Follower
from sheepfold_server.dashboard.history.file import HistoryRefused
from sheepfold_server.dashboard.history.history import History
from sheepfold_server.dashboard.listen import CONNECTIONS_MAX, bind
from sheepfold_server.dashboard.live.feed import Feed
from sheepfold_server.dashboard.store import Store
from sheepfold_server.dashboard.trackers.choose import tracker_of
from sheepfold_server.dashboard.trackers.mirror import Mirror
from sheepfold_wire.connection import DEFAULT, Connection

log = logging.getLogger(__name__)

GRACE_SECONDS = 3


@dataclass(frozen=True, slots=True)
class DashboardConfig:
    """What the dashboard process is started with."""

    coordinator: Connection | str = DEFAULT
    listen: str = "127.0.0.1:8070"
    trackers: tuple[str, ...] = ()
    """As `--tracker` names them."""
    history: Path | None = None
    """File of the history; None keeps it in memory."""


class _Server(uvicorn.Server):
    """Says when it serves, flushes the feed meanwhile, and ends the streams before it waits for requests."""

    def __init__(self, config: uvicorn.Config, feed: Feed, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._feed, self._on_ready = feed, on_ready

    async def on_tick(self, counter: int) -> bool:  # called every 0.1 s
        self._feed.flush(time.monotonic())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._feed.close()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def run_dashboard(config: DashboardConfig, on_ready: Callable[[str], None] = lambda address: None) -> int:
    """Serve until SIGTERM or SIGINT; `on_ready` is told the address once it serves.

    Raises CannotListen, HistoryRefused, TrackerMissing.
    """
    mirror = Mirror([tracker_of(text) for text in config.trackers])
    bound = bind(config.listen)
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
    server = _Server(
        uvicorn.Config(
            create_app(store),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=GRACE_SECONDS,
        ),
        store.feed,
        lambda: on_ready(address),
    )
    log.info("dashboard of the coordinator at %s listens on http://%s", config.coordinator, address)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again once it has stopped
    try:
        server.run(sockets=[bound])
    finally:
        follower.close()
        mirror.close()
        history.close()
    return 0
