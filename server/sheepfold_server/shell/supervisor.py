"""`sheepfold up`: a coordinator, its shards and a dashboard as child processes on one address.

Whatever dies is started again and goes on from what is on the disk. What dies too often ends it all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sheepfold_server.core.permissions import Role
from sheepfold_server.shell.child import Child, ended
from sheepfold_server.shell.security import SecurityFiles, read_ca
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.state_dir import StateDir
from sheepfold_wire.connection import Connection

HOST = "127.0.0.1"
STOP_SECONDS = 8.0
RESTART_SECONDS_FIRST, RESTART_SECONDS_MAX = 0.5, 30.0
HEALTHY_SECONDS = 60.0
FAILURES_MAX = 5
"""Of a coordinator or shard in a row, each before it served: more would not help."""
STAGING_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class UpConfig:
    """What `sheepfold up` starts. A port of 0 takes a free one.

    `host` is listened on and told to workers. Another one than loopback must be `is_secured`, by TLS and a
    token; the dashboard, which then asks for no login, stays on loopback. Or it must be `is_insecure`.
    """

    directory: Path
    shard_count: int = 2
    port: int = 7070
    dashboard_port: int = 8070
    threads: int = 1
    device: str = "cpu"
    staging_bytes: int = STAGING_BYTES
    host: str = HOST
    is_insecure: bool = False
    is_secured: bool = False
    trackers: tuple[str, ...] = ()
    checkpoint_url: str = ""

    @property
    def tls(self) -> Path:
        """Where certificates, keys and tokens are, if it is secured."""
        return self.directory / "tls"

    def listen(self, role: str, port: int = 0) -> list[str]:
        """The arguments of a gRPC role that is to listen on `port`."""
        arguments = ["--listen", f"{self.host}:{port}"]
        if not self.is_secured:
            return [*arguments, "--insecure"] if self.is_insecure else arguments
        files = SecurityFiles.in_folder(self.tls, role)
        given = {
            "--tls-cert": files.certificate,
            "--tls-key": files.key,
            "--tls-ca": files.ca,
            "--token-keys": files.token_keys,
            "--token-signer": files.token_signer,
        }
        return arguments + [str(word) for pair in given.items() if pair[1] is not None for word in pair]

    def dashboard_listen(self, port: int) -> list[str]:
        if not self.is_secured:
            return self.listen("dashboard", port)
        token = self.tls / f"{Role.READER}.token"
        shown = ["--tls-ca", str(self.tls / "ca.pem"), "--token-file", str(token)]
        return ["--listen", f"{HOST}:{port}", *shown]


class PartLost(Exception):
    """A coordinator or shard does not stay up; the text says what is known and what to do."""


class Backoff:
    """Waits that double with each failure, and begin anew after a healthy while."""

    def __init__(self) -> None:
        self._seconds = RESTART_SECONDS_FIRST

    def next(self, lived_seconds: float) -> float:
        """Seconds to wait before the next start of something that lived that long."""
        if lived_seconds >= HEALTHY_SECONDS:
            self._seconds = RESTART_SECONDS_FIRST
        wait, self._seconds = self._seconds, min(self._seconds * 2, RESTART_SECONDS_MAX)
        return wait


class Tended:
    """A child that is started again when it has died, sooner or later."""

    def __init__(self, child: Child, start: Callable[[], None], what_goes_on: str, failures_max: int) -> None:
        """`what_goes_on`: while it is down. After more than `failures_max` in a row `is_lost`; 0: never."""
        self.child, self._start, self._what_goes_on = child, start, what_goes_on
        self._failures_max, self._failures = failures_max, 0
        self._backoff = Backoff()
        self._started_at = 0.0
        self._restart_at: float | None = None
        self._is_announced = True

    def start(self, now: float) -> None:
        self._started_at = now
        self._start()

    def tend(self, now: float) -> str:
        """Start it again when its wait is over; one line if something happened, else ""."""
        if self._restart_at is not None:
            if now >= self._restart_at:
                self._restart_at, self._is_announced = None, False
                self.start(now)
            return ""
        code = self.child.exit_code()
        if code is None:
            return self._news()
        lived = now - self._started_at
        self._failures = 0 if self._has_served() else self._failures + 1
        wait = self._backoff.next(lived)
        self._restart_at = now + wait
        how = ended(self.child.name, self.child.pid, code)
        return f"{how}; {self._what_goes_on}, it is started again in {wait:g} s"

    def _news(self) -> str:
        """It has said where it serves."""
        if self._is_announced or not self._has_served():
            return ""
        return f"{self.child.name} restarted, pid {self.child.pid}"

    def _has_served(self) -> bool:
        self._is_announced = self._is_announced or self.child.has_announced()
        return self._is_announced

    @property
    def is_lost(self) -> bool:
        return 0 < self._failures_max < self._failures


class Supervisor:
    """Call `start`, then `check` often, then `stop`; all from the main thread."""

    def __init__(self, config: UpConfig, stopped: threading.Event, say: Callable[[str], None]) -> None:
        self.config = config
        self.directory = StateDir(config.directory)
        self._stopped, self._say = stopped, say
        self.coordinator = self._child("coordinator")
        self.shards = [self._child(f"shard {i}") for i in range(config.shard_count)]
        self.dashboard = self._child("dashboard")
        self.connection = self.admin = Connection("")
        """For workers, and for administrators; known once it is started."""
        wait = "workers wait"
        self._tended = [
            Tended(self.coordinator, self._start_coordinator, wait, FAILURES_MAX),
            *(
                Tended(shard, partial(self._start_shard, index, shard), wait, FAILURES_MAX)
                for index, shard in enumerate(self.shards)
            ),
            Tended(self.dashboard, self._start_dashboard, "training goes on", 0),
        ]

    def _child(self, name: str) -> Child:
        return Child(name, [], self.directory.logs / f"{name.replace(' ', '-')}.log")

    def start(self) -> None:
        """Returns once every shard is linked. Raises StartError or Interrupted; call `stop` then too."""
        if not 1 <= self.config.shard_count <= 64:
            raise StartError(f"--shards {self.config.shard_count}: give 1 to 64")
        self.directory.take()
        self._make_security()
        coordinator, *others = self._tended
        coordinator.start(time.monotonic())
        self.coordinator.await_address(self._stopped)
        for tended in others:
            tended.start(time.monotonic())
        for child in (*self.shards, self.dashboard):
            child.await_address(self._stopped)
        self.connection = self._connection(Role.WORKER)
        self.admin = self._connection(Role.ADMIN)
        self._write_up()

    def _write_up(self) -> None:
        self.directory.write_up(self.facts(), self.connection.secret, self.admin.secret)

    def _make_security(self) -> None:
        if self.config.is_secured:
            # On loopback nobody waits for it.
            from sheepfold_server.shell.certificates import keep_join_token, make_security

            make_security(self.config.tls, [self.config.host])
            keep_join_token(self.config.tls, Role.READER, time.time())

    def _connection(self, role: Role) -> Connection:
        address, tls = self.coordinator.address, self.config.tls
        if not self.config.is_secured:
            return Connection(address)
        from sheepfold_server.shell.certificates import keep_join_token

        return Connection(address, read_ca(tls / "ca.pem"), keep_join_token(tls, role, time.time()))

    @property
    def servers_address(self) -> str:
        """Where shards link: an address of its own where they show a certificate."""
        return (self.coordinator.others or (self.coordinator.address,))[0]

    def _start_coordinator(self) -> None:
        """Where it was before, so that workers and shards find it again."""
        port = _port(self.coordinator, self.config.port)
        links = self.coordinator.others[0] if self.coordinator.others else f"{self.config.host}:0"
        self.coordinator.start(*coordinator_arguments(self.config, port, links))

    def _start_shard(self, index: int, shard: Child) -> None:
        arguments = shard_arguments(self.config, index, _port(shard, 0))
        shard.start(*arguments, "--coordinator", self.servers_address)

    def _start_dashboard(self) -> None:
        trackers = [part for text in self.config.trackers for part in ("--tracker", text)]
        listen = self.config.dashboard_listen(_port(self.dashboard, self.config.dashboard_port))
        history = ["--history", str(self.directory.history)]
        arguments = ["dashboard", *listen, *history, *trackers]
        self.dashboard.start(*arguments, "--coordinator", self.coordinator.address)

    def check(self) -> None:
        """Notice what died since the last call, start it again when its time has come; raises PartLost."""
        for tended in self._tended:
            news = tended.tend(time.monotonic())
            if tended.is_lost:
                raise PartLost(self._loss(tended.child, news))
            if news:
                self._say(news)
                self._write_up()

    def _loss(self, child: Child, news: str) -> str:
        again = f"sheepfold up --shards {self.config.shard_count} --dir {self.config.directory}"
        if self.config.is_secured or self.config.host != HOST:
            again += f" --listen {self.config.host}{' --insecure' if self.config.is_insecure else ''}"
        how = news.partition(";")[0]
        return (
            f"{how} before it served, {FAILURES_MAX + 1} times in a row; nothing that was committed is lost. "
            f"Its last words: {child.last_words() or 'none'} (its log: {child.log}); when that is mended, "
            f"start again with `{again}`"
        )

    def stop(self) -> None:
        """Ask all to finish, the coordinator last; kill what has not ended in time."""
        for group in ((self.dashboard, *self.shards), (self.coordinator,)):
            for child in group:
                child.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            for child in group:
                child.wait(max(0.0, deadline - time.monotonic()))
        self.directory.release()

    def facts(self) -> dict[str, Any]:
        """What `up.json` says: who runs, where, and where each logs."""

        def of(child: Child) -> dict[str, Any]:
            return {"pid": child.pid, "address": child.address, "log": str(child.log)}

        return {
            "coordinator": of(self.coordinator),
            "shards": [of(shard) for shard in self.shards],
            "dashboard": of(self.dashboard),
        }


def _port(child: Child, wanted: int) -> int:
    """The port it has served on already, else the wanted one."""
    return int(child.address.rsplit(":", 1)[1]) if child.address else wanted


def coordinator_arguments(config: UpConfig, port: int, servers_listen: str = "") -> list[str]:
    return [
        *("coordinator", "--shards", str(config.shard_count), "--dir", str(config.directory / "coordinator")),
        *(["--checkpoints", config.checkpoint_url] if config.checkpoint_url else []),
        *config.listen("coordinator", port),
        *(["--servers-listen", servers_listen] if config.is_secured else []),
    ]


def shard_arguments(config: UpConfig, index: int, port: int = 0) -> list[str]:
    return [
        *("shard", "--index", str(index), "--shards", str(config.shard_count)),
        *("--dir", str(config.directory / f"shard-{index}"), *config.listen("shard", port)),
        *("--threads", str(config.threads), "--device", config.device),
        *("--staging-bytes", str(config.staging_bytes)),
    ]
