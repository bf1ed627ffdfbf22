"""What one client may take of the dashboard, seen through real sockets."""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h11
import pytest
from tests.integration.test_cli_up import eventually
from tests.unit.monitored import STATUS
from tests.unit.test_dashboard_access import filled
from uvicorn.protocols.http.h11_impl import H11Protocol

from sheepfold_server.dashboard.access.callers import EVERYONE, Access
from sheepfold_server.dashboard.access.headers import HEADERS
from sheepfold_server.dashboard.limits import Limits
from sheepfold_server.dashboard.listen import bind
from sheepfold_server.dashboard.serve import DashboardConfig, Server, Tls
from sheepfold_server.dashboard.store import Store
from sheepfold_server.shell.certificates import make_security
from sheepfold_server.shell.https import Https, read_https
from sheepfold_server.shell.start import StartError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

HURRIED = Limits(handshake_seconds=0.3, header_seconds=0.3, body_seconds=0.3, reading_seconds=0.3)
PATIENT = Limits(handshake_seconds=300.0, header_seconds=300.0, body_seconds=300.0, reading_seconds=300.0)
WAIT_SECONDS = 10.0
GET = b"GET /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any\r\n\r\n"
EVENTS = GET.replace(b"jobs", b"events?job=lenet")
POST = b"POST /login HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\n"


LOGIN = Access(lambda token: EVERYONE)
"""A login that any token opens."""


@dataclass(frozen=True)
class Served:
    """A dashboard that runs."""

    port: int
    server: Server

    @property
    def places(self) -> int:
        """Connections that it has."""
        return len(self.server.server_state.connections)

    def owing(self, owed: Any) -> int:
        """Connections whose client is in this state of h11."""
        connections = list(self.server.server_state.connections)
        return sum(each.conn.their_state is owed for each in connections if isinstance(each, H11Protocol))


@contextmanager
def serving(limits: Limits, store: Store | None = None, **given: Any) -> Iterator[Served]:
    """A dashboard in a thread. `given`: what else stands in its configuration."""
    bound = bind("127.0.0.1:0", limits.connections)
    ready = threading.Event()
    server = Server(store or filled(), DashboardConfig(limits=limits, **given), ready.set)
    thread = threading.Thread(target=server.serve_on, args=(bound,))
    port = int(bound.getsockname()[1])
    thread.start()
    try:
        assert ready.wait(WAIT_SECONDS)
        yield Served(port, server)
    finally:
        server.should_exit = True
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


def connected(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), WAIT_SECONDS)


def rest_of(connection: socket.socket) -> bytes:
    """Everything until the server closes; it must."""
    found = b""
    try:
        while piece := connection.recv(65_536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def asked(served: Served, sent: bytes) -> bytes:
    with connected(served) as connection:
        connection.sendall(sent)
        return rest_of(connection)


def status_of(answer: bytes) -> int:
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert match is not None, answer[:200]
    return int(match[1])


def is_served(served: Served) -> bool:
    answer = asked(served, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    return status_of(answer) == 200 and b'"job":"lenet"' in answer


# --- deadlines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "owed"),
    [
        (b"", "header"),
        (b"GET", "header"),
        (GET[:-2], "header"),
        (POST + b"Content-Length: 9\r\n\r\ntoken", "body"),
        (POST + b"Content-Length: 9\r\n\r\n", "body"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\ntoken\r\n", "body"),
        (GET[:-2] + b"Content-Length: 9\r\n\r\n", "answered already"),
    ],
)
def test_request_that_does_not_come_is_not_waited_for(sent: bytes, owed: str) -> None:
    with serving(HURRIED, access=LOGIN) as served:
        began = time.monotonic()
        answer = asked(served, sent)
        assert 0.25 < time.monotonic() - began < 5.0
    if owed == "answered already":  # without reading a body
        assert status_of(answer) == 200
    else:
        assert status_of(answer) == 408
        assert f"the {owed} of the request is not complete after 0.3 s".encode() in answer


def test_trickle_is_no_progress() -> None:
    """One byte at a time, each sooner than the deadline."""
    with serving(HURRIED) as served, connected(served) as connection:
        began = time.monotonic()
        for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000:
            if select.select([connection], [], [], 0.05)[0]:
                break
            connection.sendall(bytes([byte]))
        assert time.monotonic() - began < 5.0
        assert status_of(rest_of(connection)) == 408


def test_half_a_second_request_on_a_connection_is_not_waited_for() -> None:
    with serving(HURRIED) as served, connected(served) as connection:
        connection.sendall(GET + GET[:20])
        answer = rest_of(connection)
    assert status_of(answer) == 200
    assert b"HTTP/1.1 408 " in answer


def test_stream_outlives_the_deadlines_of_requests() -> None:
    store = filled(is_open=True)
    with serving(HURRIED, store) as served, connected(served) as connection:
        connection.sendall(EVENTS)
        until(connection, b'"state":"running"')
        assert is_silent(connection, seconds=3 * HURRIED.header_seconds)
        store.set_status(replace(STATUS, state="paused"), at=200.0)
        until(connection, b'"state":"paused"')


def until(connection: socket.socket, wanted: bytes) -> None:
    found = b""
    while wanted not in found:
        piece = connection.recv(65_536)
        assert piece, found[-500:]
        found += piece


def is_silent(connection: socket.socket, seconds: float) -> bool:
    """Whether nothing comes, nor the end."""
    return not select.select([connection], [], [], seconds)[0]


def test_who_reads_nothing_of_an_answer_is_hung_up_on() -> None:
    with serving(HURRIED) as served, connected(served) as connection:
        connection.sendall(GET.replace(b"/api/v1/jobs", b"/static/page.js") * 200)  # 24 MB in all
        eventually(lambda: served.places == 1, "it is connected")
        eventually(lambda: not served.places, "it is gone")


# --- sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [20_000, 33_000, 100_000, 2_000_000])
@pytest.mark.parametrize("where", ["header", "many headers", "address"])
def test_header_is_read_up_to_a_limit(size: int, where: str) -> None:
    sent = {
        "header": GET[:-2] + b"X: " + b"x" * size + b"\r\nConnection: close\r\n\r\n",
        "many headers": GET[:-2] + b"X: xxxxx\r\n" * (size // 10) + b"Connection: close\r\n\r\n",
        "address": GET[:-2].replace(b"/api/v1/jobs", b"/healthz?" + b"x" * size)
        + b"Connection: close\r\n\r\n",
    }[where]
    with serving(PATIENT) as served, connected(served) as connection:
        try:
            connection.sendall(sent)
        except (BrokenPipeError, ConnectionResetError):
            assert size > PATIENT.header_bytes
        answer = rest_of(connection)
    if size <= PATIENT.header_bytes:
        assert status_of(answer) == 200
    else:
        assert answer == b"" or status_of(answer) in (400, 431)


@pytest.mark.parametrize("sent", [b"Content-Length: 9000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_body_is_read_up_to_a_limit(sent: bytes) -> None:
    """By its length, before a byte of it comes, or by what comes; of what reads none, none is kept."""
    with serving(PATIENT, access=LOGIN) as served, connected(served) as connection:
        connection.sendall(POST + sent)
        if b"chunked" in sent:
            with suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(1_000):
                    connection.sendall(b"2328\r\n" + b"x" * 9_000 + b"\r\n")
        answer = rest_of(connection)
    assert answer == b"" or status_of(answer) == 413


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 99],
)
def test_what_is_no_request_is_refused_with_our_headers_and_not_repeated(sent: bytes) -> None:
    with serving(PATIENT) as served:
        answer = asked(served, sent + b"\r\n\r\n")
        assert is_served(served)
    assert status_of(answer) == 400
    for name, value in HEADERS.items():
        assert f"{name.lower()}: {value}\r\n".encode() in answer


# --- places ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "owed"),
    [(b"", h11.IDLE), (GET[:-2], h11.IDLE), (POST + b"Content-Length: 9\r\n\r\n", h11.SEND_BODY)],
)
def test_three_hundred_that_wait_do_not_keep_others_out(sent: bytes, owed: Any) -> None:
    """Nor do they close a stream that was there before them."""
    with serving(PATIENT, filled(is_open=True), access=LOGIN) as served, ExitStack() as stack:
        stream = stack.enter_context(connected(served))
        stream.sendall(EVENTS)
        until(stream, b"running")
        idle: list[socket.socket] = []
        for count in (100, 200):  # all of the first owe before one of the others is there
            came = [stack.enter_context(connected(served)) for _ in range(count)]
            for each in came:
                with suppress(BrokenPipeError, ConnectionResetError):
                    each.sendall(sent)
            idle += came
            eventually(lambda: served.owing(owed) >= 100, "they owe us the rest")
        began = time.monotonic()
        assert is_served(served)
        assert time.monotonic() - began < 5.0
        assert is_silent(stream, 0.0)
        eventually(lambda: served.places <= PATIENT.connections, "some are gone")
        gone = 300 - PATIENT.connections
        eventually(lambda: sum(not is_silent(each, 0.0) for each in idle) >= gone, "they see it")
        assert all(is_silent(each, 0.0) for each in idle[100:])  # those that came first had to go


def test_where_all_are_busy_one_more_is_told_to_come_later() -> None:
    few = replace(PATIENT, connections=3)
    with serving(few, filled(is_open=True)) as served, ExitStack() as stack:
        streams = [stack.enter_context(connected(served)) for _ in range(3)]
        for stream in streams:
            stream.sendall(EVENTS)
            until(stream, b"running")
        answer = asked(served, GET)
        assert status_of(answer) == 503
        assert b"all 3 connections are busy" in answer
        streams[0].close()
        eventually(lambda: served.places == 2, "its place is free")
        assert is_served(served)


# --- HTTPS ----------------------------------------------------------------------------------------------


def https(folder: Path) -> Https:
    found = read_https(folder / "coordinator.pem", folder / "coordinator.key")
    assert found is not None
    return found


def certificate_of(served: Served, folder: Path) -> bytes:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    with connected(served) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert status_of(rest_of(connection)) == 200
        assert connection.version() in ("TLSv1.2", "TLSv1.3")
        found = connection.getpeercert(binary_form=True)
        assert found is not None
        return found


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01", GET])
def test_handshake_that_does_not_come_is_not_waited_for(sent: bytes, tmp_path: Path) -> None:
    make_security(tmp_path, ["127.0.0.1"])
    with serving(HURRIED, tls=Tls(https(tmp_path).context)) as served, connected(served) as connection:
        began = time.monotonic()
        connection.sendall(sent)
        rest_of(connection)
        assert time.monotonic() - began < 5.0
        certificate_of(served, tmp_path)


def test_silence_after_a_handshake_is_not_waited_for(tmp_path: Path) -> None:
    make_security(tmp_path, ["127.0.0.1"])
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    with (
        serving(HURRIED, tls=Tls(https(tmp_path).context)) as served,
        connected(served) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        assert status_of(rest_of(connection)) == 408


def test_certificate_is_renewed_while_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one half of a new pair changes nothing."""
    monkeypatch.setattr("sheepfold_server.shell.https.LOOK_SECONDS", 0.0)
    make_security(tmp_path, ["127.0.0.1"])
    ours = https(tmp_path)
    key = (tmp_path / "coordinator.key").read_bytes()
    with serving(PATIENT, tls=Tls(ours.context, ours.renew)) as served:
        first = certificate_of(served, tmp_path)
        (tmp_path / "coordinator.key").write_bytes((tmp_path / "shard.key").read_bytes())
        ours.renew()
        assert certificate_of(served, tmp_path) == first
        (tmp_path / "coordinator.key").write_bytes(key)
        make_security(tmp_path, ["127.0.0.1"])
        eventually(lambda: certificate_of(served, tmp_path) != first, "the new one is shown")


def test_files_of_https_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    make_security(tmp_path, ["127.0.0.1"])
    with pytest.raises(StartError, match="give --tls-cert and --tls-key together"):
        read_https(tmp_path / "coordinator.pem", None)
    for key in ("shard.key", "nothing.key"):
        with pytest.raises(StartError, match=r"do not belong together .*; give both as PEM"):
            read_https(tmp_path / "coordinator.pem", tmp_path / key)
    assert read_https(None, None) is None
