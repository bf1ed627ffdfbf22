"""Runs the coordinator process until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2

from sheepfold_server.core.quotas import UNBOUND, Quotas
from sheepfold_server.shell import health_port
from sheepfold_server.shell.auditing import Auditor
from sheepfold_server.shell.coordinator_service import CoordinatorService, MonitorService
from sheepfold_server.shell.data_dir import DataDir
from sheepfold_server.shell.fleet import Fleet
from sheepfold_server.shell.gate import AioGate, Gate, check_table
from sheepfold_server.shell.open_files import raise_open_files
from sheepfold_server.shell.options import server_options
from sheepfold_server.shell.security import Credentials, Security
from sheepfold_server.shell.start import StartError
from sheepfold_server.storage.audit import AuditError, AuditLog
from sheepfold_server.storage.log.errors import LogError
from sheepfold_wire.v1 import coordinator_pb2, coordinator_pb2_grpc, monitor_pb2, monitor_pb2_grpc

log = logging.getLogger(__name__)

CALLS_MAX = 16_384
"""At a time: each worker has one or two. More are refused, and their callers try again."""
TICK_SECONDS = 0.1
GRACE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """What the coordinator process is started with."""

    shard_count: int
    listen: str = "127.0.0.1:7070"
    security: Security = field(default_factory=Security)
    directory: Path | None = None
    """Where its jobs are kept; without one, they end with it."""
    checkpoint_url: str = ""
    """Where checkpoints of all jobs are kept, for all shards to reach; empty: nowhere."""
    servers_listen: str = ""
    """A second address, for shards, which prove themselves there by their certificate; empty: none."""
    quotas: Quotas = UNBOUND
    health_listen: str = ""
    """Where health alone is served, in plain text; empty: nowhere but beside the other calls."""


class CoordinatorServer:
    """The fleet behind its gRPC server."""

    def __init__(self, config: CoordinatorConfig) -> None:
        self.config = config
        self._directory = None if config.directory is None else DataDir(config.directory)
        if self._directory is not None:
            self._directory.take()
        self._audit_log = None if self._directory is None else _audit_log(self._directory.path)
        self.fleet = _fleet(config, self._directory)
        self.address = self.servers_address = self.health_address = ""
        """Where workers and everyone else call, where shards link, where health alone is served."""
        self._health = health.aio.HealthServicer()
        self._credentials = Credentials(config.security)
        gate = AioGate(Gate(self._credentials), Auditor(self._audit_log))
        self._server = _grpc_server(gate, CALLS_MAX)
        self._probed = _grpc_server(AioGate(health_port.gate(), Auditor(None)), health_port.CALLS_MAX)

    async def start(self) -> None:
        """Listen; raises StartError."""
        check_table(
            (
                coordinator_pb2.DESCRIPTOR.services_by_name["CoordinatorService"],
                monitor_pb2.DESCRIPTOR.services_by_name["MonitorService"],
            )
        )
        coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(
            CoordinatorService(self.fleet, self._credentials), self._server
        )
        monitor_pb2_grpc.add_MonitorServiceServicer_to_server(MonitorService(self.fleet), self._server)
        health_port.add_health(self._server, self._health)
        self.address = self.servers_address = self._listen(self.config.listen)
        if self.config.servers_listen:
            self.servers_address = self._listen(self.config.servers_listen, asks_certificate=True)
        if self.config.health_listen:
            self.health_address = health_port.add_health_port(
                self._probed, self._health, self.config.health_listen
            )
        await self._server.start()
        await self._probed.start()
        for name in ("", "liveness", "readiness", "sheepfold.v1.CoordinatorService"):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def _listen(self, listen: str, asks_certificate: bool = False) -> str:
        port = self._credentials.add_port(self._server, listen, asks_certificate)
        if port == 0:
            raise StartError(
                f"the coordinator cannot listen on {listen}: the port is taken or the address is not of this "
                "machine; give another with --listen HOST:PORT, or with `sheepfold up --listen` and `--port`"
            )
        return f"{listen.rsplit(':', 1)[0]}:{port}"

    async def serve(self, stopped: asyncio.Event) -> None:
        """Give the fleet its clock until `stopped`, then end calls within the grace period."""
        while not stopped.is_set():
            self.fleet.tick()
            try:
                await asyncio.wait_for(stopped.wait(), TICK_SECONDS)
            except TimeoutError:
                continue
        await self._health.enter_graceful_shutdown()
        await self._server.stop(GRACE_SECONDS)
        await self._probed.stop(None)
        if self._audit_log is not None:
            self._audit_log.close()
        if self._directory is not None:
            self._directory.release()


def _grpc_server(gate: AioGate, calls_max: int) -> grpc.aio.Server:
    return grpc.aio.server(interceptors=[gate], options=server_options(), maximum_concurrent_rpcs=calls_max)


def _audit_log(directory: Path) -> AuditLog:
    """Raises StartError."""
    try:
        return AuditLog(directory)
    except (OSError, AuditError) as error:
        raise StartError(f"{error}; put the file elsewhere to begin a new one") from None


def _fleet(config: CoordinatorConfig, directory: DataDir | None) -> Fleet:
    """Raises StartError for a directory that cannot be used as it is."""
    try:
        return Fleet(config.shard_count, directory, config.checkpoint_url, config.quotas)
    except (LogError, OSError) as error:
        raise StartError(str(error)) from None


async def _run(config: CoordinatorConfig, on_ready: Callable[[str], None]) -> None:
    raise_open_files()
    server = CoordinatorServer(config)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await server.start()
    log.info("coordinator of %d shards listens on %s", config.shard_count, server.address)
    on_ready(" ".join(dict.fromkeys((server.address, server.servers_address))))
    await server.serve(stopped)


def run_coordinator(config: CoordinatorConfig, on_ready: Callable[[str], None] = lambda address: None) -> int:
    """Serve until SIGTERM or SIGINT; `on_ready` is told the address once it listens."""
    asyncio.run(_run(config, on_ready))
    return 0
