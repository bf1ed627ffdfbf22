"""With TLS, health is asked in plain text at a port of its own, and nothing else is answered there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from tests.integration.harness import DEADLINE_SECONDS, event_loop, until
from tests.integration.test_health import NOT_SERVING, SERVING, ask

from sheepfold_server.shell.certificates import make_security
from sheepfold_server.shell.coordinator_main import CoordinatorConfig, CoordinatorServer
from sheepfold_server.shell.security import Security, SecurityFiles, read_security
from sheepfold_server.shell.shard_main import ShardServer
from sheepfold_server.shell.shard_process import ShardConfig
from sheepfold_server.shell.start import StartError
from sheepfold_wire.connection import Connection
from sheepfold_wire.v1 import coordinator_pb2, monitor_pb2, shard_pb2

FREE = "127.0.0.1:0"
SERVICES = [
    f"{service.full_name}/{method.name}"
    for module in (coordinator_pb2, monitor_pb2, shard_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secured") / "tls"
    make_security(folder, ["127.0.0.1"])
    return folder


def security(tls: Path, role: str) -> Security:
    return read_security(SecurityFiles.in_folder(tls, role))


@contextmanager
def coordinator(config: CoordinatorConfig) -> Iterator[CoordinatorServer]:
    started: Future[CoordinatorServer] = Future()
    stopped = asyncio.Event()

    async def serve() -> None:
        try:
            server = CoordinatorServer(config)
            await server.start()
        except Exception as error:
            started.set_exception(error)
            return
        started.set_result(server)
        await server.serve(stopped)

    served = asyncio.run_coroutine_threadsafe(serve(), event_loop())
    try:
        yield started.result(DEADLINE_SECONDS)
    finally:
        event_loop().call_soon_threadsafe(stopped.set)
        served.result(DEADLINE_SECONDS)


def refusal(address: str, method: str) -> grpc.StatusCode:
    """Of a call without TLS and token."""
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(f"/{method}", None, None)(b"", timeout=10)
    code: grpc.StatusCode = error.value.code()
    return code


def test_health_port_answers_for_both_roles_and_knows_no_other_call(tls: Path) -> None:
    own, shards = security(tls, "coordinator"), security(tls, "shard")
    with coordinator(CoordinatorConfig(1, FREE, own, servers_listen=FREE, health_listen=FREE)) as deciding:
        called = Connection(deciding.servers_address, own.ca)
        shard = ShardServer(ShardConfig(0, 1, FREE, coordinator=called, security=shards, health_listen=FREE))
        shard.start()
        try:
            until(lambda: ask(shard.health_address) == SERVING, "the shard is ready")
            assert ask(deciding.health_address) == SERVING
            for address in (deciding.health_address, shard.health_address):
                assert ask(address, "liveness") == SERVING
                assert len(SERVICES) >= 10
                assert {refusal(address, method) for method in SERVICES} == {grpc.StatusCode.UNIMPLEMENTED}
            for address in (deciding.address, shard.address):
                assert refusal(address, "grpc.health.v1.Health/Check") is grpc.StatusCode.UNAVAILABLE
        finally:
            shard.stop()
        assert refusal(shard.health_address, "grpc.health.v1.Health/Check") is grpc.StatusCode.UNAVAILABLE


def test_health_port_says_that_a_shard_is_alive_and_not_ready() -> None:
    shard = ShardServer(ShardConfig(0, 1, FREE, coordinator="127.0.0.1:1", health_listen=FREE))
    shard.start()
    try:
        assert (ask(shard.health_address, "liveness"), ask(shard.health_address)) == (SERVING, NOT_SERVING)
    finally:
        shard.stop()


def test_health_port_that_is_taken_is_named_with_its_option() -> None:
    with coordinator(CoordinatorConfig(1, FREE, health_listen=FREE)) as first:
        taken = first.health_address
        with (
            pytest.raises(StartError, match=f"--health-listen {taken}: the port is taken"),
            coordinator(CoordinatorConfig(1, FREE, health_listen=taken)),
        ):
            raise AssertionError("it was served twice")
        with pytest.raises(StartError, match="--health-listen"):
            ShardServer(ShardConfig(0, 1, FREE, coordinator=first.address, health_listen=taken))


def test_no_port_is_opened_for_health_unless_it_is_asked_for() -> None:
    with coordinator(CoordinatorConfig(1, FREE)) as deciding:
        assert deciding.health_address == ""
