"""A server on one machine, a worker on another: two network namespaces that share nothing but a cable."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="network namespaces need Linux and root"
    ),
]

EXAMPLE = Path(__file__).parents[2] / "client" / "examples" / "plain_loop.py"
SERVER, WORKER = "10.77.0.1", "10.77.0.2"
COMMAND_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30)


class Machine:
    """One namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, *arguments: str | Path) -> list[str]:
        return ["ip", "netns", "exec", self.name, *map(str, arguments)]

    def run(self, *arguments: str | Path, address: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env={**os.environ, "SHEEPFOLD": address},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )

    def sheepfold(self, *arguments: str, address: str = "") -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "sheepfold_server", *arguments, address=address)


def unavailable(reason: str) -> NoReturn:
    """CI must run this where it is root; elsewhere a container may not be allowed to."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """(server, worker), at SERVER and WORKER of one Ethernet. They are gone afterwards, whatever happened."""
    if shutil.which("ip") is None:
        unavailable("`ip` is missing: apt-get install iproute2")
    token = f"sheepfold-{os.getpid()}-{secrets.token_hex(3)}"
    server, worker = Machine(f"{token}-server"), Machine(f"{token}-worker")
    made: list[Machine] = []
    try:
        try:
            for machine in (server, worker):
                ip("netns", "add", machine.name)
                made.append(machine)
            cable = ("type", "veth", "peer", "name", "eth0", "netns", worker.name)
            ip("link", "add", "eth0", "netns", server.name, *cable)
            for machine, address in ((server, SERVER), (worker, WORKER)):
                ip("-n", machine.name, "address", "add", f"{address}/24", "dev", "eth0")
                ip("-n", machine.name, "link", "set", "lo", "up")
                ip("-n", machine.name, "link", "set", "eth0", "up")
            subprocess.run(server.command("true"), check=True, capture_output=True, text=True, timeout=30)
        except (subprocess.CalledProcessError, OSError) as error:
            words = getattr(error, "stderr", "") or str(error)
            unavailable(f"no network namespaces here: {words.strip()}")
        yield server, worker
    finally:
        for machine in made:
            ip("netns", "delete", machine.name)


@contextmanager
def running_up(machine: Machine, directory: Path) -> Iterator[str]:
    """What `sheepfold up --listen` prints, to its last line."""
    options = ["--listen", SERVER, "--port", "0", "--dashboard-port", "0", "--dir", directory]
    with (directory.parent / "up.stderr").open("w+") as errors:
        process = subprocess.Popen(
            machine.command(sys.executable, "-m", "sheepfold_server", "up", *options),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        try:
            printed: list[str] = []
            for line in process.stdout:  # ends with the process, should it not start
                printed.append(line)
                if line.startswith("export "):
                    break
            assert printed, Path(errors.name).read_text()
            yield "".join(printed)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as both:
        yield both


@pytest.fixture(scope="module")
def worker(machines: tuple[Machine, Machine]) -> Machine:
    return machines[1]


@pytest.fixture(scope="module")
def address(machines: tuple[Machine, Machine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What stands in the line to paste: place, CA and token, all that the other machine is given."""
    with running_up(machines[0], tmp_path_factory.mktemp("up") / "state") as printed:
        last = printed.splitlines()[-1]
        value = rf"sheepfold://{re.escape(SERVER)}:\d+\?ca=sha256:[0-9a-f]{{64}}&token=[\w.-]+"
        assert re.fullmatch(f"export SHEEPFOLD='{value}'", last), printed
        assert [line.split()[0] for line in printed.splitlines() if "127.0.0.1" in line] == ["dashboard"]
        yield last.removeprefix("export SHEEPFOLD='").removesuffix("'")


@contextmanager
def jumbo_frames_on_one_side_only(server: Machine, worker: Machine) -> Iterator[None]:
    """The worker's packets of up to 9,000 bytes are dropped by a cable of 1,500, without a word.

    The server is made to announce a segment size as if it took them, as a router in between would let it;
    and the worker to cut its own packets, for a virtual cable carries what is left to hardware uncut.
    """
    route = ["-n", server.name, "route", "change", "10.77.0.0/24", "dev", "eth0", "src", SERVER]
    ip("-n", worker.name, "link", "set", "eth0", "mtu", "9000", "gso_max_segs", "1")
    ip(*route, "advmss", "8960")
    try:
        yield
    finally:
        ip(*route)
        ip("-n", worker.name, "link", "set", "eth0", "mtu", "1500", "gso_max_segs", "65535")


def test_worker_on_another_machine_trains_with_the_line_that_up_prints(worker: Machine, address: str) -> None:
    done = worker.run(sys.executable, EXAMPLE, address=address)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"version 40: accuracy 0\.9\d+", done.stdout.splitlines()[-1]), done.stdout
    seen = worker.sheepfold("doctor", "--job", "plain-loop", address=address)
    assert seen.returncode == 0, seen.stdout
    for shard in (0, 1):
        assert re.search(rf"^shard {shard} TCP +ok: {re.escape(SERVER)}:\d+ takes", seen.stdout, re.MULTILINE)
        assert re.search(rf"^shard {shard} weights +ok: version 40, .* MB/s", seen.stdout, re.MULTILINE)


def test_doctor_on_another_machine_finds_the_server_only_where_it_is(worker: Machine, address: str) -> None:
    found = worker.sheepfold("doctor", address=address)
    assert found.returncode == 0, found.stdout
    assert re.search(rf"^TCP +ok: {re.escape(SERVER)}:\d+ takes connections", found.stdout, re.MULTILINE)
    assert re.search(r"^TLS +ok: TLSv1\.3, .* expires in 7\d\d days$", found.stdout, re.MULTILINE)
    assert re.search(r"^token +ok: the server takes it$", found.stdout, re.MULTILINE)
    here = worker.sheepfold("doctor", address=address.replace(SERVER, "127.0.0.1"))
    assert here.returncode == 1
    assert re.search(r"^TCP +FAILED: .* name the machine where it runs", here.stdout, re.MULTILINE)
    nobody = worker.sheepfold("doctor", address="10.78.0.1:7070")
    assert nobody.returncode == 1
    assert re.search(r"^TCP +FAILED: no way leads to 10\.78\.0\.1:7070", nobody.stdout, re.MULTILINE)


def test_machine_that_was_not_given_the_whole_line_is_refused(worker: Machine, address: str) -> None:
    done = worker.run(sys.executable, EXAMPLE, address=address + "x")
    assert done.returncode != 0
    assert "Refused: the token is none of this server's" in done.stderr
    assert address.rpartition("token=")[2] not in done.stdout + done.stderr
    plain = worker.sheepfold("doctor", address=address.removeprefix("sheepfold://").partition("?")[0])
    assert plain.returncode == 1
    assert re.search(r"^gRPC +FAILED: .* speaks TLS, .* quotes included$", plain.stdout, re.MULTILINE)


def test_doctor_tells_lost_full_packets_from_a_dead_shard(
    machines: tuple[Machine, Machine], address: str, tmp_path: Path
) -> None:
    server, worker = machines
    example = worker.sheepfold("job", "example").stdout
    (tmp_path / "job.toml").write_text(re.sub(r'(?m)^name = ".*"', 'name = "declared"', example))
    created = worker.sheepfold("job", "create", "-f", str(tmp_path / "job.toml"), address=address)
    assert created.returncode == 0, created.stderr
    with jumbo_frames_on_one_side_only(server, worker):
        found = worker.sheepfold("doctor", "--job", "declared", address=address)
    assert found.returncode == 1, found.stdout
    assert re.search(r"^gRPC +ok: ", found.stdout, re.MULTILINE)
    for shard in (0, 1):
        line = (
            rf"^shard {shard} request +FAILED: .* ms for a small request, but one of 9,000 bytes fails: .*MTU"
        )
        assert re.search(line, found.stdout, re.MULTILINE), found.stdout
    healed = worker.sheepfold("doctor", "--job", "declared", address=address)
    assert healed.returncode == 0, healed.stdout
