"""`sheepfold doctor`: each failure by real means, and the rules over what was measured."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import sheepfold_wire.messages as m
from sheepfold.doctor import calls, measures, network, reach
from sheepfold.doctor.__main__ import main
from sheepfold.doctor.agreement import check_clock, check_server_version
from sheepfold.doctor.calls import Sample, ShardCalls
from sheepfold.doctor.examine import examine
from sheepfold.doctor.machine import (
    check_fork_support,
    check_open_files,
    check_proxies,
    check_shared_memory,
    check_threads,
    check_versions,
)
from sheepfold.doctor.reach import Endpoint
from sheepfold.doctor.results import (
    NAME_WIDTH,
    CheckResult,
    Status,
    exit_code,
    failed,
    ok,
    size,
    skipped,
    warning,
)
from sheepfold.doctor.security import check_tls, judge_tls
from sheepfold.doctor.servers import CHECKS, reach_checks
from sheepfold.doctor.shards import Weights, check_request, check_weights, judge_sample, shard_checks
from sheepfold_wire.access import Access
from sheepfold_wire.connection import Connection
from sheepfold_wire.convert import to_proto
from sheepfold_wire.errors import JobUnknown, ServerUntrusted
from sheepfold_wire.frames import CHUNK_BYTES, chunk_frame, pull_end_frame, pull_header_frame
from sheepfold_wire.status import DETAILS_KEY, to_details
from sheepfold_wire.tls import ServerTls

REQUEST = m.PullRequest("toy", 0, 1, "", "", "fp32", None, 1.0)


def examined(address: str | None, environ: Mapping[str, str] | None = None) -> dict[str, CheckResult]:
    return {result.name: result for result in examine(address, None, environ or {})}


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """HOST:PORT of a TCP server that hands each connection to `serve` and closes it afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                with connection:
                    serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10.0)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answer_http(connection: socket.socket) -> None:
    connection.recv(1024)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


# --- lines ----------------------------------------------------------------------------------------------


def test_line_has_name_status_measurement_and_remedy() -> None:
    assert (
        failed("TCP", "nothing\nlistens", "Start it").line
        == "TCP               FAILED: nothing; listens. Start it"
    )
    assert ok("TCP", "in 1 ms").line.split(maxsplit=1) == ["TCP", "ok: in 1 ms"]
    assert skipped("gRPC", "TCP").line.endswith(" skipped: needs TCP")


def test_only_a_failed_check_makes_the_exit_code_1() -> None:
    assert exit_code([ok("a", ""), warning("b", "", "do"), skipped("c", "b")]) == 0
    assert exit_code([ok("a", ""), failed("b", "", "do")]) == 1


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 bytes"), (2_000, "2.0 kB"), (64 << 20, "67.1 MB"), (10**10, "10.0 GB")]
)
def test_size_is_written_for_people(count: int, text: str) -> None:
    assert size(count) == text


# --- time and version -----------------------------------------------------------------------------------


def test_clocks_that_agree_are_told_how_well_that_is_known() -> None:
    result = check_clock(1_000.25, 1_000.0, 1_000.1)
    assert result.line == "clock             ok: 200.0 ms from the coordinator's, give or take 50.0 ms"


@pytest.mark.parametrize(("server_time", "side"), [(1_090.0, "90.0 s behind"), (910.0, "90.0 s ahead of")])
def test_a_clock_that_is_wrong_is_told_on_which_side_and_what_to_do(server_time: float, side: str) -> None:
    result = check_clock(server_time, 1_000.0, 1_000.0)
    assert result.status is Status.WARNING
    assert side in result.text
    assert "chrony" in result.remedy


def test_a_slow_answer_is_not_taken_for_a_wrong_clock() -> None:
    assert check_clock(1_004.0, 1_000.0, 1_010.0).status is Status.OK


def test_another_version_of_the_server_is_named_with_the_command() -> None:
    assert check_server_version("0.2.0", "0.2.0").text == "0.2.0, as here"
    other = check_server_version("0.2.0", "0.1.0")
    assert (other.status, other.text) == (Status.WARNING, "0.2.0, here 0.1.0")
    assert "pip install sheepfold==0.2.0" in other.remedy
    assert check_server_version("", "0.1.0").status is Status.SKIPPED


# --- the way to the coordinator -------------------------------------------------------------------------


def test_bad_address_fails_and_skips_every_check_of_servers() -> None:
    found = examined("coordinator:port:7")
    assert found["address"].status is Status.FAILED
    assert {found[name].line[NAME_WIDTH + 1 :] for name in CHECKS} == {"skipped: needs address"}
    assert found["versions"].status is Status.OK


def test_address_of_the_environment_is_told_from_a_given_one() -> None:
    port = closed_port()
    assert examined(None, {"SHEEPFOLD": f"127.0.0.1:{port}"})["address"].text.endswith("from $SHEEPFOLD")
    assert examined(f"127.0.0.1:{port}")["address"].text.endswith("from --address")


def test_server_within_the_script_needs_no_network() -> None:
    found = examined("local:?shards=2")
    assert (found["address"].status, found["TCP"].status) == (Status.OK, Status.SKIPPED)
    assert exit_code(found.values()) == 0


@pytest.mark.slow
def test_name_that_nobody_knows_fails_in_bounded_time() -> None:
    """RFC 6761 keeps .invalid free. Without any name server the resolver's silence is the same failure."""
    found = examined("no-such-host.invalid:7070")
    assert found["DNS"].status is Status.FAILED
    assert "no-such-host.invalid" in found["DNS"].text
    assert "10.0.0.5" in found["DNS"].remedy
    assert found["TCP"].text == "needs DNS"
    assert found["TLS"].text == "needs TCP"


def test_name_of_an_impossible_form_fails_as_an_unknown_one() -> None:
    with pytest.raises(socket.gaierror, match="form"):
        network.resolve("a" * 64 + ".example", 7070)


def test_resolver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(10.0) and [])
    with pytest.raises(TimeoutError, match="no answer"):
        network.resolve("coordinator", 7070, seconds_max=0.01)
    release.set()


def test_closed_port_fails_with_what_to_start() -> None:
    port = closed_port()
    found = examined(f"127.0.0.1:{port}")
    assert found["DNS"].status is Status.OK
    assert found["TCP"].status is Status.FAILED
    assert f"nothing listens at 127.0.0.1:{port}" in found["TCP"].text
    assert "sheepfold up" in found["TCP"].remedy
    assert [found[name].text for name in CHECKS[2:]] == [f"needs {name}" for name in CHECKS[1:-1]]


def test_server_that_takes_no_connection_times_out() -> None:
    """Its queue of connections is full, so that further ones are left without an answer."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        held = [socket.socket() for _ in range(4)]
        for each in held:
            each.setblocking(False)
            each.connect_ex(server.getsockname())
        places = network.resolve(*server.getsockname())
        with pytest.raises(TimeoutError) as silent:
            network.connect(places, seconds_max=0.2)
        for each in held:
            each.close()
    result = reach.not_connected(Endpoint("10.0.0.5", 7070), silent.value)
    assert "does not answer" in result.text
    assert "Open TCP port 7070" in result.remedy


def test_second_address_of_a_name_is_tried() -> None:
    refused = network.Place(socket.AF_INET, ("127.0.0.1", closed_port()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = network.Place(socket.AF_INET, server.getsockname())
        assert network.connect([refused, taken])[0] is taken


def test_server_that_speaks_no_grpc_fails_with_what_to_compare() -> None:
    with listening(answer_http) as address:
        found = examined(address)
    assert found["TCP"].status is Status.OK
    assert found["gRPC"].status is Status.FAILED
    assert f"Compare {address} with the last line that `sheepfold up` prints" in found["gRPC"].remedy
    assert found["token"].text == "needs gRPC"


def test_grpc_server_that_is_not_ours_fails() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    found = examined(f"127.0.0.1:{port}")
    server.stop(None).wait()
    assert found["gRPC"].status is Status.FAILED
    assert "does not know this call" in found["gRPC"].text


def test_server_without_a_job_is_healthy_and_its_shards_are_skipped() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    methods = {"ListJobs": grpc.unary_unary_rpc_method_handler(lambda request, context: b"")}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("sheepfold.v1.MonitorService", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    found = examined(f"127.0.0.1:{port}")
    server.stop(None).wait()
    assert found["job"].status is Status.OK
    assert "job create" in found["job"].text
    assert found["shards"].text == "needs a job: it names its shards' addresses"
    assert exit_code(found.values()) == 0


def test_proxy_in_use_replaces_the_direct_checks() -> None:
    environ = {"SHEEPFOLD_USE_PROXY": "1", "http_proxy": f"http://127.0.0.1:{closed_port()}"}
    results = list(reach_checks(Endpoint("coordinator.invalid", 7070), environ))
    assert [result.status for result in results] == [Status.SKIPPED] * 2
    assert "calls go through http_proxy" in results[0].text


# --- what failures of the way mean ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "error", "remedy"),
    [
        (Endpoint("10.0.0.5", 7070), ConnectionRefusedError(), "sheepfold up --listen 10.0.0.5` there"),
        (Endpoint("127.0.0.1", 7070), ConnectionRefusedError(), "export SHEEPFOLD="),
        (
            Endpoint("127.0.0.1", 4001, "shard 1"),
            ConnectionRefusedError(),
            "only the shard's own machine has",
        ),
        (Endpoint("10.0.0.5", 4001, "shard 1"), ConnectionRefusedError(), "whether the shard still runs"),
        (Endpoint("10.0.0.5", 4001, "shard 1"), TimeoutError(), "takes free ports for shards"),
        (Endpoint("10.0.0.5", 7070), OSError(errno.EHOSTUNREACH, "No route to host"), "in one network"),
        (Endpoint("10.0.0.5", 7070), OSError(errno.ECONNRESET, "reset"), "sheepfold up --listen"),
    ],
)
def test_failed_connection_names_the_remedy(endpoint: Endpoint, error: OSError, remedy: str) -> None:
    result = reach.not_connected(endpoint, error)
    assert result.status is Status.FAILED
    assert str(endpoint) in result.text
    assert remedy in result.remedy


def test_silent_name_server_is_told_from_an_unknown_name() -> None:
    endpoint = Endpoint("coordinator", 7070)
    assert "resolv.conf" in reach.name_missing(endpoint, socket.gaierror(socket.EAI_AGAIN, "again")).remedy
    assert "resolv.conf" in reach.name_missing(endpoint, TimeoutError("no answer")).remedy
    assert "Correct the name" in reach.name_missing(endpoint, socket.gaierror(socket.EAI_NONAME, "?")).remedy


def test_unknown_name_of_a_shard_says_who_gave_it() -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert "--advertise" in reach.name_missing(Endpoint("pod-3", 4001, "shard 3"), error).remedy


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "0.0.0.0", "127.3.2.1"])
def test_address_that_means_whoever_uses_it_is_known(host: str) -> None:
    assert Endpoint(host, 1).is_here


def test_endpoint_reads_and_writes_ipv6_in_brackets() -> None:
    assert Endpoint.of("[fe80::1%eth0]:7070") == Endpoint("fe80::1%eth0", 7070)
    assert str(Endpoint("::1", 7070)) == "[::1]:7070"
    assert not Endpoint("fe80::1%eth0", 7070).is_here
    with pytest.raises(ValueError, match="HOST:PORT"):
        Endpoint.of("7070")


# --- certificates and the token -------------------------------------------------------------------------


def test_certificate_is_told_with_its_last_days() -> None:
    seen = ServerTls(b"", "TLSv1.3", "ab" * 32, expires_at=100 * 86_400.0)
    fine = judge_tls(seen, now=2.5 * 86_400)
    assert (fine.status, fine.text) == (
        Status.OK,
        f"TLSv1.3, certificate sha256:{'ab' * 32} expires in 97 days",
    )
    short = judge_tls(seen, now=90 * 86_400)
    assert short.status is Status.WARNING
    assert "Start `sheepfold up` again" in short.remedy


def test_plain_text_is_no_matter_on_loopback_and_a_warning_elsewhere() -> None:
    assert check_tls(Connection("127.0.0.1:7070")).status is Status.OK
    assert check_tls(Connection("10.0.0.5:7070")).status is Status.WARNING


def test_port_that_speaks_no_tls_fails_where_the_address_asks_for_it() -> None:
    with listening(answer_http) as address:
        result = check_tls(Connection(address, "0" * 64))
    assert result.status is Status.FAILED
    assert "speaks no TLS" in result.text


def test_plain_shard_elsewhere_is_not_shown_the_token() -> None:
    """Its coordinator is reached on loopback, where plain text is allowed."""
    access = Access(Connection("127.0.0.1:1", token="a-token-of-twenty-letters"))
    with pytest.raises(ServerUntrusted, match=r"10\.0\.0\.5:4001 in plain text"):
        ShardCalls("10.0.0.5:4001", {}, access)


# --- shards ---------------------------------------------------------------------------------------------


class Shard:
    """Answers a job of no name as a shard does, any other with `frames`."""

    def __init__(self, frames: list[bytes]) -> None:
        self.frames = frames
        self.largest = 0

    def pull(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self.largest = max(self.largest, len(request))
        if request.startswith(b"\n"):  # field 1, the job
            yield from self.frames
            return
        error = JobUnknown("job  is not open on shard 0")
        context.set_trailing_metadata(((DETAILS_KEY, to_details(error)),))
        context.abort(grpc.StatusCode.NOT_FOUND, str(error))


@contextmanager
def serving(shard: Shard) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    methods = {"Pull": grpc.unary_stream_rpc_method_handler(shard.pull)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("sheepfold.v1.ShardService", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def part(chunks: int) -> list[bytes]:
    data = bytes(CHUNK_BYTES)
    frames = [pull_header_frame(m.PullHeader(7, chunks * CHUNK_BYTES))]
    frames += [chunk_frame(number * CHUNK_BYTES, data) for number in range(chunks)]
    return [*frames, pull_end_frame(7)]


def status_of(address: str, is_connected: bool = True) -> m.ShardStatus:
    return m.ShardStatus(0, address, 1, is_connected, 0, "", 0, 1)


class Narrow:
    """A way that loses full packets: it forwards what is short, and swallows the rest of the connection."""

    def __init__(self, target: str, packet_bytes_max: int) -> None:
        host, port = target.split(":")
        self._to, self._max = (host, int(port)), packet_bytes_max

    def serve(self, near: socket.socket) -> None:
        with socket.create_connection(self._to) as far:
            is_lost = False
            while True:
                for source in select.select([near, far], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    is_lost = is_lost or len(data) > self._max
                    if not is_lost:
                        (far if source is near else near).sendall(data)


def test_shard_answers_small_and_large_requests() -> None:
    shard = Shard([])
    with serving(shard) as address, ShardCalls(address, {}) as to:
        result = check_request("shard 0 request", to)
    assert result.status is Status.OK
    assert "with 9,000 bytes" in result.text
    assert shard.largest > 9_000


@pytest.mark.slow
def test_way_that_loses_full_packets_is_told_from_a_dead_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CALL_SECONDS_MAX", 2.0)
    with (
        serving(Shard([])) as address,
        listening(Narrow(address, 2_000).serve) as narrow,
        ShardCalls(narrow, {}) as to,
    ):
        result = check_request("shard 0 request", to)
    assert result.status is Status.FAILED
    assert "one of 9,000 bytes fails" in result.text
    assert "MTU" in result.remedy


def test_server_in_a_shards_place_that_speaks_no_grpc_fails_before_the_weights() -> None:
    with listening(answer_http) as address:
        found = list(shard_checks(status_of(address), Weights(None, "weights"), {}, reach_checks))
    assert [result.status.value for result in found] == ["ok", "ok", "FAILED", "skipped"]
    assert "a small request fails" in found[2].text
    assert found[3].text == "needs shard 0 request"


def test_closed_port_of_a_shard_skips_what_needs_it() -> None:
    shard = status_of(f"127.0.0.1:{closed_port()}")
    found = list(shard_checks(shard, Weights(None, "weights"), {}, reach_checks))
    assert [(result.name, result.status.value) for result in found] == [
        ("shard 0 DNS", "ok"),
        ("shard 0 TCP", "FAILED"),
        ("shard 0 request", "skipped"),
        ("shard 0 weights", "skipped"),
    ]


@pytest.mark.parametrize(
    ("shard", "text"),
    [
        (status_of("", is_connected=False), "not connected to the coordinator"),
        (status_of("127.0.0.1:1", is_connected=False), "last at 127.0.0.1:1"),
        (status_of("nonsense"), "no HOST:PORT"),
    ],
)
def test_shard_that_cannot_be_called_fails_without_a_call(shard: m.ShardStatus, text: str) -> None:
    found = list(shard_checks(shard, Weights(None, "weights"), {}, reach_checks))
    assert text in found[0].text
    assert [result.status.value for result in found] == ["FAILED", *["skipped"] * 4]


def test_weights_are_pulled_and_their_rate_is_told() -> None:
    with serving(Shard(part(3))) as address, ShardCalls(address, {}) as to:
        result = check_weights("shard 0 weights", to, REQUEST)
    assert "version 7, 3.1 MB of 3.1 MB at" in result.text
    assert "MB/s" in result.text


def test_long_pull_is_broken_off_once_enough_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SAMPLE_BYTES_MAX", 2 * CHUNK_BYTES)
    with serving(Shard(part(30))) as address, ShardCalls(address, {}) as to:
        sample = to.sample(REQUEST)
    assert (sample.received_bytes, sample.payload_bytes) == (2 * CHUNK_BYTES, 30 * CHUNK_BYTES)


def test_damaged_weights_fail() -> None:
    damaged = bytearray(part(1)[1])
    damaged[-1] ^= 1
    with serving(Shard([part(1)[0], bytes(damaged)])) as address, ShardCalls(address, {}) as to:
        result = check_weights("shard 0 weights", to, REQUEST)
    assert result.status is Status.FAILED
    assert "XXH3" in result.text


def test_job_of_the_request_is_its_first_field() -> None:
    """What `Shard.pull` above decides by."""
    assert to_proto(REQUEST).SerializeToString().startswith(b"\n")
    assert not to_proto(m.PullRequest("", 0, 0, "x", "", "", None, 0.0)).SerializeToString().startswith(b"\n")


@pytest.mark.parametrize(
    ("sample", "status", "text"),
    [
        (Sample(3, 0, 0, 0.0), Status.OK, "holds none"),
        (Sample(3, 4_000, 4_000, 0.1), Status.OK, "too little to measure"),
        (Sample(3, 64 << 20, 10**9, 0.5), Status.OK, "67.1 MB of 1.0 GB at 134 MB/s"),
        (Sample(3, 5_000_000, 10**9, 5.0), Status.WARNING, "at 1 MB/s"),
    ],
)
def test_rate_is_judged_only_where_it_was_measured(sample: Sample, status: Status, text: str) -> None:
    result = judge_sample("shard 0 weights", sample)
    assert result.status is status
    assert text in result.text


# --- this machine ---------------------------------------------------------------------------------------


def test_ignored_proxy_is_named() -> None:
    result = check_proxies({"http_proxy": "http://proxy:3128"})
    assert result.status is Status.OK
    assert "http_proxy ignored" in result.text
    assert "SHEEPFOLD_USE_PROXY=1" in result.text


def test_used_proxy_is_a_warning_that_keeps_its_password() -> None:
    result = check_proxies({"https_proxy": "http://ada:secret@proxy:3128/", "SHEEPFOLD_USE_PROXY": "1"})
    assert result.status is Status.WARNING
    assert "https_proxy = proxy:3128," in result.text
    assert "secret" not in result.line


def test_fork_support_switched_on_is_a_warning() -> None:
    assert check_fork_support({"GRPC_ENABLE_FORK_SUPPORT": "0"}).status is Status.OK
    assert check_fork_support({"GRPC_ENABLE_FORK_SUPPORT": "1"}).status is Status.WARNING
    assert "unset" in check_fork_support({"GRPC_ENABLE_FORK_SUPPORT": "true"}).remedy


@pytest.mark.parametrize(
    ("free", "status"), [(None, Status.WARNING), (64 << 20, Status.WARNING), (8 << 30, Status.OK)]
)
def test_small_shared_memory_is_a_warning(free: int | None, status: Status) -> None:
    assert check_shared_memory(free).status is status


@pytest.mark.parametrize(
    ("cpus", "quota", "threads", "status"),
    [
        (8, None, None, Status.OK),
        (8, None, "8", Status.OK),
        (8, None, "16", Status.WARNING),
        (64, 2.0, None, Status.WARNING),
        (64, 2.0, "2", Status.OK),
        (8, None, "many", Status.WARNING),
        (8, None, "4,2", Status.OK),
    ],
)
def test_more_threads_than_cpus_are_a_warning(
    cpus: int, quota: float | None, threads: str | None, status: Status
) -> None:
    environ = {} if threads is None else {"OMP_NUM_THREADS": threads}
    assert check_threads(cpus, quota, environ).status is status


@pytest.mark.parametrize(
    ("soft", "hard", "status"),
    [(1024, 4096, Status.OK), (-1, -1, Status.OK), (256, 512, Status.WARNING), (256, -1, Status.WARNING)],
)
def test_low_limit_of_open_files_is_a_warning(soft: int, hard: int, status: Status) -> None:
    result = check_open_files(soft, hard)
    assert result.status is status
    assert hard != 512 or "ulimit -n 512" in result.remedy


def test_missing_torch_is_no_fault() -> None:
    assert check_versions("3.11.7", {"grpcio": "1.71", "torch": None}).status is Status.OK
    assert check_versions("3.11.7", {"grpcio": None, "torch": None}).status is Status.WARNING


def test_measures_of_what_is_not_there_are_none(tmp_path: Path) -> None:
    assert measures.free_bytes(tmp_path / "shm") is None
    assert measures.cpu_quota(tmp_path / "cpu.max") is None
    assert measures.installed("no-such-distribution-of-ours") is None


@pytest.mark.parametrize(("text", "quota"), [("max 100000", None), ("150000 100000", 1.5), ("?", None)])
def test_quota_of_the_container_is_read(tmp_path: Path, text: str, quota: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert measures.cpu_quota(tmp_path / "cpu.max") == quota


# --- the program ----------------------------------------------------------------------------------------

BLOCKED = """
import runpy, sys
for name in ("torch", "typer", "rich", "fastapi", "sheepfold_server"):
    sys.modules[name] = None
sys.argv[1:] = ["--address", "local:"]
runpy.run_module("sheepfold.doctor", run_name="__main__")
"""


@pytest.mark.slow
def test_doctor_runs_where_the_client_alone_is_installed() -> None:
    environ: dict[str, Any] = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "address           ok: local:?shards=1, from --address"


def test_program_prints_a_line_for_each_check_and_fails_if_one_did(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--address", f"127.0.0.1:{closed_port()}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 16
    assert sum(" FAILED: " in line for line in lines) == 1
    assert main(["--address", "local:"]) == 0
