"""`sheepfold up`: a coordinator, its shards and a dashboard as child processes on one address.

A dashboard that dies is started again. A coordinator or shard that dies ends the job: what it held is gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sheepfold_server.shell.child import Child, ended
from sheepfold_server.shell.security import SecurityFiles, read_ca, read_token
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.state_dir import StateDir
from sheepfold_wire.connection import Connection

HOST = "127.0.0.1"
STOP_SECONDS = 8.0
RESTART_SECONDS_FIRST, RESTART_SECONDS_MAX = 0.5, 30.0
HEALTHY_SECONDS = 60.0
STAGING_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class UpConfig:
    """What `sheepfold up` starts. A port of 0 takes a free one.

    `host` is listened on and told to workers. Another one than loopback must be `is_secured`, by TLS and a
    token; the dashboard, which has neither, then stays on loopback. Or it must be `is_insecure`.
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

    @property
    def files(self) -> SecurityFiles:
        """Where certificates and token are, if it is secured."""
        return SecurityFiles.in_folder(self.directory / "tls")

    def listen(self, port: int = 0) -> list[str]:
        """The arguments of a gRPC role that is to listen on `port`."""
        arguments = ["--listen", f"{self.host}:{port}"]
        if self.is_secured:
            given = {"--tls-cert": self.files.certificate, "--tls-key": self.files.key}
            return arguments + [str(word) for pair in given.items() for word in pair] + self.callers()
        return [*arguments, "--insecure"] if self.is_insecure else arguments

    def dashboard_listen(self, port: int) -> list[str]:
        if self.is_secured:
            return ["--listen", f"{HOST}:{port}", *self.callers()]
        return self.listen(port)

    def callers(self) -> list[str]:
        """The arguments of a role that calls another."""
        return ["--tls-ca", str(self.files.ca), "--token-file", str(self.files.token)]


class PartLost(Exception):
    """A coordinator or shard is gone; the text says what is lost with it and what to do."""


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


class Supervisor:
    """Call `start`, then `check` often, then `stop`; all from the main thread."""

    def __init__(self, config: UpConfig, stopped: threading.Event, say: Callable[[str], None]) -> None:
        self.config = config
        self.directory = StateDir(config.directory)
        self._stopped, self._say = stopped, say
        self.coordinator = self._child("coordinator", *coordinator_arguments(config))
        self.shards = [
            self._child(f"shard {i}", *shard_arguments(config, i)) for i in range(config.shard_count)
        ]
        self.dashboard = self._child("dashboard", "dashboard")
        self.connection = Connection("")
        """For workers; known once it is started."""
        self._backoff = Backoff()
        self._dashboard_started_at = 0.0
        self._restart_dashboard_at: float | None = None

    def _child(self, name: str, *arguments: str) -> Child:
        return Child(name, list(arguments), self.directory.logs / f"{name.replace(' ', '-')}.log")

    def start(self) -> None:
        """Returns once every shard is linked. Raises StartError or Interrupted; call `stop` then too."""
        if not 1 <= self.config.shard_count <= 64:
            raise StartError(f"--shards {self.config.shard_count}: give 1 to 64")
        self.directory.take()
        self._make_security()
        self.coordinator.start()
        self.coordinator.await_address(self._stopped)
        for shard in self.shards:
            shard.start("--coordinator", self.coordinator.address)
        self._start_dashboard(self.config.dashboard_port)
        for child in (*self.shards, self.dashboard):
            child.await_address(self._stopped)
        self.connection = self._connection()
        self.directory.write_up(self.facts(), self.connection.secret)

    def _make_security(self) -> None:
        if self.config.is_secured:
            from sheepfold_server.shell.certificates import make_security  # on loopback nobody waits for it

            make_security(self.config.directory / "tls", self.config.host)

    def _connection(self) -> Connection:
        files, address = self.config.files, self.coordinator.address
        if not self.config.is_secured:
            return Connection(address)
        assert files.ca is not None  # as they were made
        assert files.token is not None
        return Connection(address, read_ca(files.ca), read_token(files.token))

    def _start_dashboard(self, port: int) -> None:
        self._dashboard_started_at = time.monotonic()
        trackers = [part for text in self.config.trackers for part in ("--tracker", text)]
        listen, history = self.config.dashboard_listen(port), ["--history", str(self.directory.history)]
        self.dashboard.start("--coordinator", self.coordinator.address, *listen, *history, *trackers)

    def check(self) -> None:
        """Notice what died since the last call; raises PartLost."""
        for child in (self.coordinator, *self.shards):
            code = child.exit_code()
            if code is not None:
                raise PartLost(self._loss(child, code))
        self._tend_dashboard(time.monotonic())

    def _loss(self, child: Child, code: int) -> str:
        held = (
            "the attached workers and open steps" if child is self.coordinator else "the weights and moments"
        )
        again = f"sheepfold up --shards {self.config.shard_count} --dir {self.config.directory}"
        if self.config.is_secured or self.config.host != HOST:
            again += f" --listen {self.config.host}{' --insecure' if self.config.is_insecure else ''}"
        return (
            f"{ended(child.name, child.pid, code)}: {held} it held are lost, so the job cannot go on; "
            f"durable state is not built yet, start again with `{again}` (its log: {child.log})"
        )

    def _tend_dashboard(self, now: float) -> None:
        if self._restart_dashboard_at is not None:
            if now >= self._restart_dashboard_at:
                self._restart_dashboard_at = None
                self._restart_dashboard()
            return
        code = self.dashboard.exit_code()
        if code is not None:
            wait = self._backoff.next(now - self._dashboard_started_at)
            self._restart_dashboard_at = now + wait
            how = ended("dashboard", self.dashboard.pid, code)
            self._say(f"{how}; training goes on, it is started again in {wait:g} s")

    def _restart_dashboard(self) -> None:
        port = int(self.dashboard.address.rsplit(":", 1)[1])
        self._start_dashboard(port)
        with contextlib.suppress(StartError):  # it ended again; the next check sees that
            self.dashboard.await_address(self._stopped)
            self._say(f"dashboard restarted, pid {self.dashboard.pid}")
            self.directory.write_up(self.facts(), self.connection.secret)

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


def coordinator_arguments(config: UpConfig) -> list[str]:
    return ["coordinator", "--shards", str(config.shard_count), *config.listen(config.port)]


def shard_arguments(config: UpConfig, index: int) -> list[str]:
    return [
        *("shard", "--index", str(index), "--shards", str(config.shard_count), *config.listen()),
        *("--threads", str(config.threads), "--device", config.device),
        *("--staging-bytes", str(config.staging_bytes)),
    ]
