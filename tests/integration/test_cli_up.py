"""`sheepfold up` as a user has it: real processes on free ports, one state directory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from sheepfold_wire.control import Control

pytestmark = pytest.mark.slow

DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.05
JOB = """
name = "lenet"
batch = { samples = 64, slot_samples = 8 }
data = { samples = 1000 }
optimizer = { lr = { peak = 0.01 } }
stop = { steps = 10 }
"""

T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str) -> T:
    """The first true answer of `look`; fails at the deadline, naming what was waited for."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(POLL_SECONDS)  # between two looks at a condition, never instead of one
    raise AssertionError(f"not within {DEADLINE_SECONDS} s: {what}")


def sheepfold(*arguments: str, address: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sheepfold_server", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
        env={**os.environ, "SHEEPFOLD": address, "COLUMNS": "160"},
    )


def is_gone(pid: int) -> bool:
    """Not there any more, or a zombie that its new parent has not collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


class Up:
    """A running `sheepfold up` of two shards."""

    def __init__(self, directory: Path, *more: str) -> None:
        self.directory = directory
        command = [sys.executable, "-m", "sheepfold_server", "up", "--shards", "2", "--dir", str(directory)]
        self._errors = (directory.parent / "up.stderr").open("w+")
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--dashboard-port", "0", *more],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        eventually(lambda: (directory / "up.json").exists() or self.process.poll() is not None, "up.json")
        assert self.process.poll() is None, self.errors()

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.directory / "up.json").read_text())
        return facts

    @property
    def address(self) -> str:
        return str(self.facts()["coordinator"]["address"])

    def pids(self) -> list[int]:
        facts = self.facts()
        return [facts["coordinator"]["pid"], facts["dashboard"]["pid"], *(s["pid"] for s in facts["shards"])]

    def get(self, path: str) -> httpx.Response | None:
        """The dashboard's answer; None if it does not answer."""
        try:
            return httpx.get(f"http://{self.facts()['dashboard']['address']}{path}", trust_env=False)
        except httpx.HTTPError:
            return None

    def errors(self) -> str:
        return (self.directory.parent / "up.stderr").read_text()

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path / "state")
    yield running
    running.close()


def test_job_is_created_and_shown_by_command_line_and_dashboard(up: Up, tmp_path: Path) -> None:
    job_file = tmp_path / "job.toml"
    job_file.write_text(JOB)
    assert sheepfold("job", "create", "-f", str(job_file), address=up.address).stdout == "job lenet created\n"
    again = sheepfold("job", "create", "-f", str(job_file), address=up.address).stdout
    assert again == "job lenet exists already, with the same configuration\n"
    job_file.write_text(JOB.replace("peak = 0.01", "peak = 0.02"))
    other = sheepfold("job", "create", "-f", str(job_file), address=up.address)
    assert (other.returncode, len(other.stderr.splitlines())) == (2, 1)
    assert "optimizer.lr.peak" in other.stderr

    assert re.search(
        r"lenet +declared +-1 of 10 .* 2 of 2 +a worker to attach",
        sheepfold("status", address=up.address).stdout,
    )
    assert "127.0.0.1:" in sheepfold("status", "lenet", address=up.address).stdout
    assert sheepfold("job", "set", "optimizer.lr.peak=0.005", "lenet", address=up.address).stdout.endswith(
        "from step 0 on\n"
    )
    assert re.search(
        r"optimizer\.lr\.peak +0\.005", sheepfold("job", "show", "lenet", address=up.address).stdout
    )
    unknown = sheepfold("job", "pause", "bert", address=up.address)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "known: lenet" in unknown.stderr

    def shown() -> httpx.Response | None:
        response = up.get("/api/v1/jobs/lenet/shards")
        return response if response is not None and response.status_code == 200 else None

    assert [shard["is_connected"] for shard in eventually(shown, "the job on the dashboard").json()] == [
        True,
        True,
    ]
    ready = up.get("/readyz")
    assert ready is not None
    assert ready.status_code == 200


def test_second_up_on_the_same_directory_is_refused_with_the_pid(up: Up) -> None:
    second = sheepfold("up", "--dir", str(up.directory), "--port", "0", "--dashboard-port", "0")
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"pid {up.process.pid}" in second.stderr
    with Control(up.address) as control:
        assert control.jobs() == ()


def test_up_on_a_taken_port_is_refused_and_leaves_nothing_running(up: Up, tmp_path: Path) -> None:
    port = up.address.rsplit(":", 1)[1]
    second = sheepfold("up", "--dir", str(tmp_path / "second"), "--port", port, "--dashboard-port", "0")
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in second.stderr
    assert "--port" in second.stderr
    assert not (tmp_path / "second" / "up.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_everything_with_exit_code_0(up: Up, number: signal.Signals) -> None:
    pids = up.pids()
    up.process.send_signal(number)
    assert up.end() == 0
    assert all(is_gone(pid) for pid in pids)
    assert not (up.directory / "up.json").exists()
    assert "Traceback" not in "".join(log.read_text() for log in (up.directory / "logs").iterdir())


def test_killed_dashboard_is_started_again_at_the_same_address(up: Up) -> None:
    before = up.facts()["dashboard"]
    os.kill(before["pid"], signal.SIGKILL)
    eventually(lambda: up.facts()["dashboard"]["pid"] != before["pid"], "another dashboard process")
    assert up.facts()["dashboard"]["address"] == before["address"]
    eventually(lambda: up.get("/healthz"), "the dashboard's answer")
    assert up.process.poll() is None
    assert "training goes on" in up.errors()


@pytest.mark.parametrize("role", ["shard 1", "coordinator"])
def test_killed_part_is_started_again_at_its_address(up: Up, role: str) -> None:
    def part() -> dict[str, Any]:
        facts = up.facts()
        found: dict[str, Any] = facts["coordinator"] if role == "coordinator" else facts["shards"][1]
        return found

    before = part()
    os.kill(before["pid"], signal.SIGKILL)
    eventually(lambda: part()["pid"] != before["pid"], f"another process of {role}")
    assert part()["address"] == before["address"]
    eventually(lambda: f"{role} restarted" in up.errors(), "a line that says so")
    assert f"{role} (pid {before['pid']}) died with exit code -9 (SIGKILL); workers wait" in up.errors()
    assert up.process.poll() is None


def test_insecure_up_serves_all_of_it_at_its_address_and_ends_with_the_line_for_workers(
    tmp_path: Path,
) -> None:
    """127.0.0.2 is this machine's too, on Linux, and no part may fall back to 127.0.0.1."""
    up = Up(tmp_path / "state", "--listen", "127.0.0.2", "--insecure")
    try:
        facts = up.facts()
        addresses = [part["address"] for part in (facts["coordinator"], facts["dashboard"], *facts["shards"])]
        assert [address.split(":")[0] for address in addresses] == ["127.0.0.2"] * 4
        assert up.process.stdout is not None
        printed = [up.process.stdout.readline() for _ in range(7)]
        assert printed[-1] == f"export SHEEPFOLD={up.address}\n"
    finally:
        up.close()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_children_do_not_outlive_a_killed_up(up: Up) -> None:
    pids = up.pids()
    up.process.kill()
    eventually(lambda: all(is_gone(pid) for pid in pids), "the end of all children")
