"""One peer that floods servers: they live, their memory stays within a bound, and training goes on meanwhile.

The bound is for a server process that has trained a job before, over what it held then.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.faults.footprint import Footprint, sample
from tests.faults.overload import servers
from tests.integration.harness import digest_of, running_fold, small_job, train, until

from sheepfold_server.shell import open_files
from sheepfold_server.shell.child import Child
from sheepfold_server.shell.supervisor import Supervisor
from sheepfold_wire.job import Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FLOODS = Path(__file__).with_name("floods.py")
RESETS = PINGS = 20_000
IDLE_CONNECTIONS = 1_000
GROWTH_MB_MAX = {"coordinator": 32.0, "shard": 96.0}
"""Under any of the floods: 256 streams and 1,000 connections at 10 to 16 KB each, what an allocator keeps; of
a shard also the job that is trained meanwhile, and what its 64 threads touch for the first time."""
PINGS_OF_A_CONNECTION_MAX = 500
"""On average; a few get through before a server reads them."""
DESCRIPTORS_MORE = 8
"""Of a process that lost its connections, beside those it had: of clients that come and go."""
OF_COORDINATOR, OF_SHARD = "/sheepfold.v1.MonitorService/ListJobs", "/sheepfold.v1.ShardService/Push"


def job_of(name: str) -> Job:
    return small_job(name, numerics={"kernel": "eager"}, checkpoint={"every_minutes": 0})


class Watched:
    """Servers that have trained a job, and what they held then."""

    def __init__(self, supervisor: Supervisor, how: str) -> None:
        self.supervisor, self.how = supervisor, how
        self.address = supervisor.connection.secret
        self.processes: dict[str, Child] = {
            "coordinator": supervisor.coordinator,
            "shard": supervisor.shards[0],
        }
        self.pids = {name: child.pid for name, child in self.processes.items()}
        train(self.address, job_of("before"))
        self.digest = digest_of(self.address, "before")

    def look(self) -> dict[str, Any]:
        """A sample of each process; fails if one has died."""
        found = {name: sample(pid) for name, pid in self.pids.items()}
        assert None not in found.values(), found
        return found

    @contextmanager
    def flooded(self, kinds: dict[str, str], count: int) -> Iterator[list[Counter[str]]]:
        """By one client for each process; what those have counted stands in the list afterwards."""
        found: list[Counter[str]] = []
        with ExitStack() as stack:
            clients = []
            for name, kind in kinds.items():
                command = [
                    sys.executable,
                    str(FLOODS),
                    kind,
                    self.processes[name].address,
                    str(count),
                    self.how,
                ]
                client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                stack.enter_context(client)
                stack.callback(client.kill)
                clients.append(client)
                assert client.stdout is not None
                assert client.stdout.readline() == "begun\n"
            yield found
            for client in clients:
                out, _ = client.communicate(timeout=120.0)
                found.append(Counter(json.loads(out)))

    def train_meanwhile(self, name: str) -> dict[str, float]:
        """To the same bits; returns how much each process grew at most, in MiB."""
        before = self.look()
        seen = {process: Footprint([first]) for process, first in before.items()}

        def look(slot: object) -> None:
            for process, now in self.look().items():
                seen[process].samples.append(now)

        train(self.address, job_of(name), look)
        look(None)
        assert digest_of(self.address, name) == self.digest
        return {p: prints.largest("rss_mb") - before[p].rss_mb for p, prints in seen.items()}


@pytest.fixture(scope="module", params=["plain", "tls"])
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with servers(is_secured=request.param == "tls") as supervisor:
        yield Watched(supervisor, request.param)


def check(grown: dict[str, float]) -> None:
    for process, megabytes in grown.items():
        assert megabytes < GROWTH_MB_MAX[process], f"{process} grew by {megabytes:.1f} MiB"


def test_streams_that_are_opened_and_reset_take_no_more_than_the_bound(watched: Watched) -> None:
    kinds = {"coordinator": OF_COORDINATOR, "shard": OF_SHARD}
    with watched.flooded(kinds, RESETS) as found:
        grown = watched.train_meanwhile("resets")
    print(grown, found)
    assert all(counts["sent"] >= RESETS for counts in found)
    check(grown)


def test_pings_without_a_pause_end_their_connection(watched: Watched) -> None:
    with watched.flooded(dict.fromkeys(watched.processes, "pings"), PINGS) as found:
        grown = watched.train_meanwhile("pings")
    print(grown, found)
    assert sum(counts["ENHANCE_YOUR_CALM"] for counts in found) > 0
    for counts in found:
        ended = counts.total() - counts["sent"]
        assert counts["sent"] >= PINGS
        assert counts["sent"] / ended < PINGS_OF_A_CONNECTION_MAX
    check(grown)


def test_idle_connections_take_no_more_than_the_bound_and_give_their_files_back(watched: Watched) -> None:
    before = watched.look()

    def more(process: str) -> int:
        return int(watched.look()[process].descriptors - before[process].descriptors)

    with watched.flooded(dict.fromkeys(watched.processes, "idle"), IDLE_CONNECTIONS):
        for process in watched.processes:
            until(lambda p=process: more(p) >= IDLE_CONNECTIONS, "all connections")  # type: ignore[misc]
        grown = watched.train_meanwhile("idle")
    print(grown)
    check(grown)
    for process in watched.processes:
        until(lambda p=process: more(p) <= DESCRIPTORS_MORE, "their end")  # type: ignore[misc]


# --- the cap on connections --------------------------------------------------------------------------------


def is_open(peer: socket.socket) -> bool:
    """Whether the server has not closed it."""
    peer.settimeout(0.0)
    try:
        return peer.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


@pytest.mark.parametrize("role", ["coordinator", "shard"])
def test_connections_above_the_cap_are_closed_and_earlier_ones_served(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cap = 6
    monkeypatch.setattr(open_files, "CONNECTIONS_MAX", cap)
    with running_fold(1) as fold, ExitStack() as stack:
        host, port = (fold.address if role == "coordinator" else fold.shards[0].address).rsplit(":", 1)
        crowd: list[socket.socket] = []

        def press(slot: object) -> None:
            if not crowd:  # once the worker is connected to both
                crowd.extend(
                    stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(3 * cap)
                )
                until(lambda: sum(map(is_open, crowd)) < cap, "the end of those above the cap")

        train(fold.address, small_job(), press)
        assert fold.fleet.status("small").version == 4


def test_cap_is_what_the_files_of_the_process_leave_room_for() -> None:
    """A quarter of them, and it is told."""
    code = (
        "import logging; logging.basicConfig(); from sheepfold_server.shell import open_files as o; "
        "o.raise_open_files(); print(o.connections_max())"
    )
    shell = f"ulimit -Sn 300; ulimit -Hn 400; exec {sys.executable} -c '{code}'"
    ran = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "100\n"
    assert "may open 400 files, which leaves room for 100 connections" in ran.stderr
