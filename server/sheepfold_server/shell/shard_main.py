"""Runs one shard process until it is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import torch
from grpc_health.v1 import health, health_pb2

import sheepfold_wire.messages as m
from sheepfold_server.shell import health_port
from sheepfold_server.shell.arenas import limit_arenas
from sheepfold_server.shell.data_dir import DataDir
from sheepfold_server.shell.gate import Gate, SyncGate, check_table
from sheepfold_server.shell.link import Link
from sheepfold_server.shell.open_files import raise_open_files
from sheepfold_server.shell.options import server_options
from sheepfold_server.shell.patience import Patience
from sheepfold_server.shell.security import Credentials
from sheepfold_server.shell.shard_process import ShardConfig, ShardProcess
from sheepfold_server.shell.shard_service import SERVICE, ShardService
from sheepfold_server.shell.shared_memory import Regions
from sheepfold_server.shell.start import StartError
from sheepfold_wire.access import Access
from sheepfold_wire.v1 import shard_pb2

log = logging.getLogger(__name__)

CALLS_MAX = 64
EXIT_HALTED = 3
GRACE_SECONDS = 5.0


class ShardServer:
    """A shard with its gRPC server and its link. Ready once the link is up."""

    def __init__(self, config: ShardConfig, on_ready: Callable[[str], None] = lambda address: None) -> None:
        self.config, self._on_ready = config, on_ready
        check_device(config.device)
        self._directory = None if config.directory is None else DataDir(config.directory)
        if self._directory is not None:
            self._directory.take()
        self.stopped = threading.Event()
        torch.set_num_threads(config.threads)
        self.process = ShardProcess(config, self._send, self._on_halt)
        self._health = health.HealthServicer()
        check_table([shard_pb2.DESCRIPTOR.services_by_name["ShardService"]])
        credentials = Credentials(config.security)
        self._patience = Patience()
        self._server = grpc.server(
            ThreadPoolExecutor(CALLS_MAX, "call"),
            interceptors=[SyncGate(Gate(credentials), self._patience)],
            options=server_options(),
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        self.regions = Regions()
        service = ShardService(self.process, self._patience, self.regions)
        self._server.add_generic_rpc_handlers((service.handler(),))
        health_port.add_health(self._server, self._health)
        port = credentials.add_port(self._server, config.listen)
        if port == 0:
            raise StartError(
                f"shard {config.shard} cannot listen on {config.listen}: the port is taken or the address is "
                "not of this machine; give another with --listen HOST:PORT"
            )
        self.address = f"{config.listen.rsplit(':', 1)[0]}:{port}"
        self._probed = grpc.server(
            ThreadPoolExecutor(health_port.CALLS_MAX, "health"),
            interceptors=[SyncGate(health_port.gate(), self._patience)],
            options=server_options(),
            maximum_concurrent_rpcs=health_port.CALLS_MAX,
        )
        self.health_address = ""
        if config.health_listen:
            self.health_address = health_port.add_health_port(
                self._probed, self._health, config.health_listen
            )
        hello = self.process.hello
        access = Access(config.coordinator, config.security.identity)
        self._link = Link(access, lambda: hello(self.address), self._command, self.process.halt)

    def _send(self, report: m.ShardReport) -> None:
        self._link.send(report)

    def _command(self, command: m.ShardCommand) -> None:
        self.process.command(command)
        if isinstance(command, m.Welcome):
            self._set_health(health_pb2.HealthCheckResponse.SERVING)
            self._on_ready(self.address)

    def _set_health(self, status: int) -> None:
        for name in ("", SERVICE, "readiness"):
            self._health.set(name, status)

    def _on_halt(self, why: str) -> None:
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.stopped.set()

    def start(self) -> None:
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._health.set("liveness", health_pb2.HealthCheckResponse.SERVING)
        self.regions.start()
        self._server.start()
        self._probed.start()
        self._patience.start()
        self._link.start()

    def stop(self) -> None:
        """Not ready first, then finish what is being received, then go."""
        self._health.enter_graceful_shutdown()
        self._server.stop(GRACE_SECONDS).wait()
        self._probed.stop(None).wait()
        self.regions.close()
        self._patience.close()
        self._link.close()
        self.process.close()
        if self._directory is not None:
            self._directory.release()


def check_device(device: str) -> None:
    """Raises StartError if torch cannot put a tensor there."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise StartError(
            f"--device {device}: torch cannot use it ({why}); give cpu or this machine's GPU"
        ) from None


def run_shard(config: ShardConfig, on_ready: Callable[[str], None] = lambda address: None) -> int:
    """Serve until SIGTERM or SIGINT (exit code 0) or a halt (3).

    `on_ready` is told the address whenever the coordinator has welcomed the shard.
    """
    raise_open_files()
    limit_arenas()
    server = ShardServer(config, on_ready)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stopped.set())
    server.start()
    log.info("shard %d of %d listens on %s", config.shard, config.shard_count, server.address)
    while not server.stopped.wait(1.0):
        pass
    server.stop()
    return EXIT_HALTED if server.process.halted else 0
