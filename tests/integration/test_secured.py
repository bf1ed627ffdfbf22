"""TLS and a token on real servers: who may call, whom a client trusts, and that one line is enough."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.integration.harness import RunningFold, digest_of, running_fold, small_job, train
from tests.integration.test_cli_up import Up, eventually, sheepfold

import sheepfold as client
import sheepfold_wire.messages as m
from sheepfold.doctor.examine import examine
from sheepfold.errors import Refused
from sheepfold.transport import TransportError
from sheepfold.transport.grpc import GrpcTransport
from sheepfold_server.dashboard.follower import Follower
from sheepfold_server.dashboard.store import Store
from sheepfold_server.shell.certificates import make_security
from sheepfold_server.shell.security import Credentials, Security, SecurityFiles, read_security
from sheepfold_server.shell.shard_main import ShardServer
from sheepfold_server.shell.shard_process import ShardConfig
from sheepfold_wire.access import Access
from sheepfold_wire.connection import Connection
from sheepfold_wire.control import Control, NoAnswer
from sheepfold_wire.convert import to_proto
from sheepfold_wire.errors import ServerUntrusted, TokenRefused
from sheepfold_wire.tls import examine_tls, find_ca
from sheepfold_wire.v1 import monitor_pb2_grpc

pytestmark = pytest.mark.slow

REFUSED_SECONDS_MAX = 5.0
OTHER_TOKEN = "another-token-of-some-length"


@pytest.fixture(scope="module")
def fold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFold]:
    folder = tmp_path_factory.mktemp("secured") / "tls"
    make_security(folder, ["127.0.0.1"])
    with running_fold(2, tls=folder) as running:
        yield running


def refused(address: str) -> str:
    """What a worker is told, and soon."""
    began = time.monotonic()
    with pytest.raises(Refused) as said:
        client.Client(parameters={"w": np.zeros(4, np.float32)}, address=address, config=small_job("never"))
    assert time.monotonic() - began < REFUSED_SECONDS_MAX
    return str(said.value)


# --- clients --------------------------------------------------------------------------------------------


def test_worker_trains_by_the_line_and_gets_the_bits_of_plain_text(fold: RunningFold) -> None:
    train(fold.connection.secret, small_job())
    with running_fold(2) as plain:
        train(plain.address, small_job())
        assert digest_of(fold.connection.secret, "small") == digest_of(plain.address, "small")


def test_worker_with_a_wrong_token_is_refused_at_once(fold: RunningFold) -> None:
    text = refused(replace(fold.connection, token=OTHER_TOKEN).secret)
    assert "is none of" in text
    assert "UNAUTHENTICATED" in text
    assert OTHER_TOKEN not in text


def test_worker_without_a_token_is_told_to_take_the_whole_line(fold: RunningFold) -> None:
    assert "carries no token" in refused(replace(fold.connection, token="").secret)


def test_worker_that_trusts_another_ca_is_refused_with_both(fold: RunningFold) -> None:
    text = refused(replace(fold.connection, ca="0" * 64).secret)
    assert f"ca=sha256:{'0' * 64}" in text
    assert f"sha256:{fold.security.ca}" in text


def test_nothing_is_sent_to_a_server_that_is_not_trusted(fold: RunningFold) -> None:
    transport = GrpcTransport(replace(fold.connection, ca="0" * 64))
    with pytest.raises(ServerUntrusted):
        transport.call(m.ListJobsRequest())
    assert transport._channels == {}
    transport.close()


@contextmanager
def answering(security: Security, host: str) -> Iterator[str]:
    """HOST:PORT of a server that shows certificates and knows no call."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = Credentials(security).add_port(server, f"{host}:0")
    server.start()
    try:
        yield f"{host}:{port}"
    finally:
        server.stop(None).wait()


def test_certificate_of_another_address_is_refused_by_us_and_by_grpc(fold: RunningFold) -> None:
    """It is for 127.0.0.1, and the shards' addresses are checked by grpc alone."""
    with answering(fold.security, "127.0.0.3") as address:
        with pytest.raises(ServerUntrusted, match="is refused: IP address mismatch"):
            examine_tls(address, fold.security.ca)
        with Access(fold.connection).channel(address, []) as channel, pytest.raises(grpc.RpcError) as error:
            monitor_pb2_grpc.MonitorServiceStub(channel).ListJobs(to_proto(m.ListJobsRequest()), timeout=10)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_ca_in_a_chain_that_it_did_not_sign_is_refused(fold: RunningFold, tmp_path: Path) -> None:
    """Whoever has seen the CA's certificate can show it; to sign with it takes its key."""
    make_security(tmp_path, ["127.0.0.1"])
    own = read_security(SecurityFiles.in_folder(tmp_path, "coordinator"))
    begin = b"-----BEGIN CERTIFICATE-----"
    leaf, ca = own.chain_pem.rpartition(begin)[0], fold.security.chain_pem.rpartition(begin)[2]
    with answering(replace(own, chain_pem=leaf + begin + ca), "127.0.0.1") as address:
        assert find_ca(address, fold.security.ca)
        with pytest.raises(ServerUntrusted, match="is refused"):
            examine_tls(address, fold.security.ca)


def test_server_without_tls_is_refused_where_the_address_asks_for_it(fold: RunningFold) -> None:
    with running_fold(1) as plain:
        text = refused(Connection(plain.address, fold.security.ca, OTHER_TOKEN).secret)
    assert "speaks no TLS" in text


def test_plain_text_is_no_answer_for_a_server_with_tls(fold: RunningFold) -> None:
    transport = GrpcTransport(fold.address)
    with pytest.raises(TransportError):
        transport.call(m.ListJobsRequest())
    transport.close()


def test_server_that_is_not_there_yet_is_waited_for(fold: RunningFold) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        silent = f"127.0.0.1:{taken.getsockname()[1]}"
    transport = GrpcTransport(replace(fold.connection, target=silent))
    with pytest.raises(TransportError, match=r"TLS with .*refused"):
        transport.call(m.ListJobsRequest())
    transport.close()


# --- servers --------------------------------------------------------------------------------------------


def test_health_checks_need_no_token(fold: RunningFold) -> None:
    access = Access(replace(fold.connection, token=""))
    for address in (fold.address, fold.shards[0].address):
        with access.channel(address, []) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def halted(config: ShardConfig) -> str:
    """Why a shard process with that configuration gives up."""
    server = ShardServer(config)
    server.start()
    try:
        assert server.stopped.wait(REFUSED_SECONDS_MAX)
        return server.process.halted
    finally:
        server.stop()


def test_shard_at_the_address_of_workers_halts_and_is_told_where_to_go(fold: RunningFold) -> None:
    config = replace(fold.shards[0].config, coordinator=replace(fold.connection, token=""))
    assert "shards link to the address of --servers-listen" in halted(config)


def test_shard_with_the_certificate_of_another_role_halts_and_says_so(fold: RunningFold) -> None:
    """A certificate of the right CA alone is not enough."""
    assert "names its role as spiffe://sheepfold/coordinator" in halted(
        replace(fold.shards[0].config, security=fold.security)
    )


def test_shard_that_does_not_trust_its_coordinator_halts(fold: RunningFold) -> None:
    coordinator = fold.shards[0].config.coordinator
    assert isinstance(coordinator, Connection)
    config = replace(fold.shards[0].config, coordinator=replace(coordinator, ca="0" * 64))
    assert "does not trust the coordinator" in halted(config)


def test_control_and_the_dashboards_follower_show_the_token(fold: RunningFold) -> None:
    with Control(fold.connection) as control:
        control.jobs()
    with Control(replace(fold.connection, token=OTHER_TOKEN)) as control, pytest.raises(TokenRefused):
        control.jobs()
    store = Store()
    follower = Follower(store, fold.connection)
    with Control(fold.connection) as control:
        control.create(m.CreateJobRequest("", small_job("followed").to_json()))
    follower.start()
    eventually(lambda: "followed" in [job.job for job in store.jobs()], "the job in the dashboard's store")
    follower.close()


def test_control_waits_for_a_coordinator_to_come_up_and_then_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        silent = Connection(f"127.0.0.1:{taken.getsockname()[1]}", "0" * 64)
    with Control(silent) as control, pytest.raises(NoAnswer, match=silent.target):
        control.jobs(wait_seconds=0.2)


def test_worker_from_outside_is_sent_to_the_external_address_of_a_shard() -> None:
    """Nobody listens at the other one, so that a worker of the cluster's own network could not train."""
    with running_fold(1) as fold, Control(fold.connection) as control:
        process, link = fold.shards[0].process, fold.shards[0]._link
        control.create(m.CreateJobRequest("", small_job().to_json()), wait_seconds=10.0)
        eventually(lambda: control.status("small").shards[0].is_connected, "the first link")
        process.config = replace(process.config, advertise="127.0.0.1:1", external=fold.shards[0].address)
        assert link._call is not None
        link._call.cancel()
        eventually(lambda: control.status("small").shards[0].address == "127.0.0.1:1", "the next Hello")
        train(f"{fold.address}?network=external", small_job())
        doctor = examined(f"{fold.address}?network=external")
        assert doctor["shard 0 weights"].startswith("ok: version 4")
        assert examined(fold.address)["shard 0 TCP"].startswith("FAILED: nothing listens at 127.0.0.1:1")


# --- doctor ---------------------------------------------------------------------------------------------


def examined(address: str) -> dict[str, str]:
    return {result.name: result.line[18:] for result in examine(address, None, {})}


def test_doctor_tells_version_certificate_and_token(fold: RunningFold) -> None:
    found = examined(fold.connection.secret)
    assert "ok: TLSv1.3, certificate sha256:" in found["TLS"]
    assert "expires in 729 days" in found["TLS"]
    assert found["token"] == "ok: the server takes it"
    assert fold.connection.token not in "".join(found.values())


def test_doctor_tells_a_wrong_ca_a_wrong_token_and_plain_text_apart(fold: RunningFold) -> None:
    assert "FAILED" in examined(replace(fold.connection, ca="0" * 64).secret)["TLS"]
    wrong = replace(fold.connection, token=OTHER_TOKEN)
    assert "FAILED: the token is none of" in examined(wrong.secret)["token"]
    assert "speaks TLS, and the address asks for plain text" in examined(fold.address)["gRPC"]


# --- sheepfold up ---------------------------------------------------------------------------------------


def is_ready(up: Up) -> bool:
    answer = up.get("/readyz")
    return answer is not None and answer.status_code == 200


def last_line(up: Up) -> str:
    assert up.process.stdout is not None
    printed = [up.process.stdout.readline() for _ in range(7)]
    assert printed[-1].startswith("export SHEEPFOLD='sheepfold://127.0.0.2:"), printed
    return printed[-1].strip().removeprefix("export SHEEPFOLD='").removesuffix("'")


def test_line_that_up_prints_is_all_it_takes_and_stays_the_same(tmp_path: Path) -> None:
    """127.0.0.2 is this machine's too, on Linux, and no gRPC server may fall back to 127.0.0.1."""
    directory = tmp_path / "state"
    up = Up(directory, "--listen", "127.0.0.2")
    try:
        facts, line = up.facts(), last_line(up)
        servers = [facts["coordinator"], *facts["shards"]]
        assert [server["address"].split(":")[0] for server in servers] == ["127.0.0.2"] * 3
        assert facts["dashboard"]["address"].startswith("127.0.0.1:")
        assert sheepfold("status", address=line).returncode == 0
        assert sheepfold("status", address=f"file:{directory / 'connection'}").returncode == 0
        assert "carries no token" in sheepfold("status", address=line.partition("&")[0]).stderr
        stop = sheepfold("job", "stop", "small", address=line)
        assert "Control is for admin, and this credential is that of a worker" in stop.stderr
        train(line, small_job())
        eventually(lambda: is_ready(up), "the dashboard's word that it follows the coordinator")
        os.kill(facts["coordinator"]["pid"], signal.SIGKILL)
        train(line, small_job("after"))
        eventually(lambda: up.facts()["coordinator"]["pid"] != facts["coordinator"]["pid"], "what runs now")
        assert up.facts()["coordinator"]["address"] == facts["coordinator"]["address"]
        for child in ("coordinator", "shards"):  # once more: it must come back to both of its addresses
            told = up.facts()[child]
            os.kill((told if child == "coordinator" else told[0])["pid"], signal.SIGKILL)
        train(line, small_job("once-more"))
        token = line.rpartition("token=")[2]
        readable = [
            file for file in directory.rglob("*") if file.is_file() and token.encode() in file.read_bytes()
        ]
        assert sorted(file.name for file in readable) == ["connection", "worker.token"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in readable} == {0o600}
        for pid in up.pids():
            for about in ("cmdline", "environ"):
                assert token not in Path(f"/proc/{pid}/{about}").read_text()
    finally:
        up.process.terminate()
        assert up.end() == 0
        up.close()
    again = Up(directory, "--listen", "127.0.0.2")
    try:
        assert last_line(again).partition("?")[2] == line.partition("?")[2]
    finally:
        again.close()
