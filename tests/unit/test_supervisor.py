"""What `sheepfold up` does around its children, as far as that needs no sockets."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sheepfold_server.shell.child import Child, Interrupted, announcer, ended, last_line
from sheepfold_server.shell.logs import OneLine
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.state_dir import StateDir
from sheepfold_server.shell.supervisor import (
    FAILURES_MAX,
    Backoff,
    PartLost,
    Supervisor,
    UpConfig,
    coordinator_arguments,
    shard_arguments,
)
from sheepfold_server.shell.tether import tethered

# --- the state directory ------------------------------------------------------------------------------


def test_second_holder_of_a_directory_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    first, second = StateDir(tmp_path), StateDir(tmp_path)
    first.take()
    with pytest.raises(StartError, match=rf"pid {os.getpid()}; stop that one or give another --dir"):
        second.take()
    second.release()
    first.write_up({}, "127.0.0.1:7070", "127.0.0.1:7070")
    assert (tmp_path / "up.json").exists()
    first.release()


def test_refused_holder_leaves_the_first_ones_file_alone(tmp_path: Path) -> None:
    first, second = StateDir(tmp_path), StateDir(tmp_path)
    first.take()
    first.write_up({"coordinator": {"pid": 1}}, "127.0.0.1:7070", "127.0.0.1:7070")
    with pytest.raises(StartError):
        second.take()
    second.release()
    assert json.loads((tmp_path / "up.json").read_text()) == {"coordinator": {"pid": 1}}
    first.release()


def test_released_directory_can_be_taken_again(tmp_path: Path) -> None:
    first, second = StateDir(tmp_path), StateDir(tmp_path)
    first.take()
    first.release()
    second.take()
    assert not (tmp_path / "up.json").exists()
    second.release()


def test_directory_under_a_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="--dir"):
        StateDir(tmp_path / "file" / "state").take()


# --- children -----------------------------------------------------------------------------------------


def test_child_that_ends_before_it_serves_is_refused_in_its_own_words(tmp_path: Path) -> None:
    """192.0.2.1 is reserved for documentation: no machine has it."""
    arguments = ["coordinator", "--shards", "1", "--listen", "192.0.2.1:0", "--insecure"]
    child = Child("coordinator", arguments, tmp_path / "x.log")
    child.start()
    with pytest.raises(
        StartError, match=r"^the coordinator cannot listen on 192\.0\.2\.1:0: .* give another"
    ):
        child.await_address(threading.Event())


def test_waiting_for_a_child_ends_when_the_user_stops(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    child = Child("shard 0", ["shard", "--index", "0", "--shards", "1"], tmp_path / "shard.log")
    child.start()
    with pytest.raises(Interrupted):
        child.await_address(stopped)
    child.terminate()
    child.wait(10.0)
    os.close(child._announced)


def test_announced_address_is_one_line_and_said_once() -> None:
    reader, writer = os.pipe()
    announce = announcer(writer)
    announce("127.0.0.1:1")
    announce("127.0.0.1:2")
    assert os.read(reader, 100) == b"127.0.0.1:1\n"
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_announcing_to_nobody_is_allowed() -> None:
    announcer(-1)("127.0.0.1:1")


@pytest.mark.parametrize(
    ("code", "expected"),
    [(3, "exit code 3"), (-9, "exit code -9 (SIGKILL)"), (-200, "exit code -200 (signal 200)")],
)
def test_end_of_a_process_is_told_with_its_signal(code: int, expected: str) -> None:
    assert ended("shard 1", 4711, code) == f"shard 1 (pid 4711) died with {expected}"


def test_last_line_of_a_log_is_without_our_prefix(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert last_line(log) == ""
    log.write_text("one\nsheepfold: the port is taken\n\n")
    assert last_line(log) == "the port is taken"


# --- the tether ---------------------------------------------------------------------------------------

STARTER = """
import subprocess, sys
from sheepfold_server.shell.tether import tethered
program = "import signal; print('up', flush=True); signal.pause()"
child = subprocess.Popen(tethered([sys.executable, "-c", program]))
print(child.pid, flush=True)
import signal; signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_tethered_child_dies_with_a_starter_that_is_killed() -> None:
    """The pipe both write to reports its end only once both are gone."""
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter.stdout as output:
        lines = {output.readline().strip(), output.readline().strip()}
        assert "up" in lines
        starter.kill()
        assert output.read() == ""
    starter.wait(10.0)


def test_tethered_command_keeps_the_pid_and_the_exit_code() -> None:
    program = "import os, sys; print(os.getpid(), flush=True); sys.exit(7)"
    child = subprocess.Popen(tethered([sys.executable, "-c", program]), stdout=subprocess.PIPE, text=True)
    printed, _ = child.communicate(timeout=30.0)
    assert (int(printed), child.returncode) == (child.pid, 7)


# --- the supervisor -----------------------------------------------------------------------------------


def test_waits_between_restarts_double_up_to_a_limit_and_begin_anew_when_healthy() -> None:
    backoff = Backoff()
    waits = [backoff.next(lived_seconds=1.0) for _ in range(8)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert backoff.next(lived_seconds=61.0) == 0.5


def test_shard_gets_everything_the_user_chose(tmp_path: Path) -> None:
    config = UpConfig(tmp_path, shard_count=3, threads=2, device="cuda:1", staging_bytes=4096)
    text = " ".join(shard_arguments(config, 2))
    for part in ("--index 2", "--shards 3", "--threads 2", "--device cuda:1", "--staging-bytes 4096"):
        assert part in text


def test_address_to_listen_on_is_that_of_every_part(tmp_path: Path) -> None:
    config = UpConfig(tmp_path, port=7171, host="10.0.0.5", is_insecure=True)
    assert coordinator_arguments(config, 7171)[-3:] == ["--listen", "10.0.0.5:7171", "--insecure"]
    assert " ".join(shard_arguments(config, 0)).count("--listen 10.0.0.5:0 --insecure") == 1
    assert "--insecure" not in coordinator_arguments(UpConfig(tmp_path), 0)


def test_secured_roles_get_files_and_never_the_token_itself(tmp_path: Path) -> None:
    config = UpConfig(tmp_path, host="10.0.0.5", is_secured=True)
    tls = tmp_path / "tls"
    roles = {
        "coordinator": (coordinator_arguments(config, 7070, "10.0.0.5:7071"), "10.0.0.5:7070"),
        "shard": (shard_arguments(config, 0), "10.0.0.5:0"),
    }
    for role, (arguments, listen) in roles.items():
        files = f"--tls-cert {tls}/{role}.pem --tls-key {tls}/{role}.key --tls-ca {tls}/ca.pem"
        assert f"--listen {listen} {files} --token-keys {tls}/token.pub" in " ".join(arguments)
    coordinator, shard = (" ".join(arguments) for arguments, _ in roles.values())
    assert coordinator.endswith(f"--token-signer {tls}/token.key --servers-listen 10.0.0.5:7071")
    assert "token.key" not in shard
    shown = f"--tls-ca {tls}/ca.pem --token-file {tls}/reader.token"
    assert " ".join(config.dashboard_listen(0)) == f"--listen 127.0.0.1:0 {shown}"


class Dead:
    """Stands in for a process that has ended."""

    pid = 4711

    def __init__(self, code: int) -> None:
        self._code = code

    def poll(self) -> int:
        return self._code


def fails_to_start(supervisor: Supervisor, child: Child, code: int = 1) -> None:
    """It has ended once more before it served, and once more is too often."""
    tended = next(t for t in supervisor._tended if t.child is child)
    tended._failures, tended._is_announced = FAILURES_MAX, False
    child._process = Dead(code)  # type: ignore[assignment]


def test_remedy_of_a_loss_of_secured_parts_is_secured_too(tmp_path: Path) -> None:
    supervisor = Supervisor(UpConfig(tmp_path, is_secured=True), threading.Event(), print)
    fails_to_start(supervisor, supervisor.coordinator)
    with pytest.raises(PartLost, match=r"--dir .* --listen 127\.0\.0\.1`"):
        supervisor.check()


def test_remedy_of_a_loss_starts_it_at_the_same_address(tmp_path: Path) -> None:
    config = UpConfig(tmp_path, host="10.0.0.5", is_insecure=True)
    supervisor = Supervisor(config, threading.Event(), print)
    fails_to_start(supervisor, supervisor.coordinator)
    with pytest.raises(PartLost, match=r"--dir .* --listen 10\.0\.0\.5 --insecure`"):
        supervisor.check()


def test_shard_that_does_not_start_is_one_sentence_with_its_last_words_and_what_to_do(
    tmp_path: Path,
) -> None:
    supervisor = Supervisor(UpConfig(tmp_path), threading.Event(), print)
    shard = supervisor.shards[1]
    shard.log.parent.mkdir()
    shard.log.write_text("sheepfold: the disk is on fire\n")
    fails_to_start(supervisor, shard, -signal.SIGKILL)
    with pytest.raises(PartLost) as lost:
        supervisor.check()
    text = str(lost.value)
    assert text.startswith("shard 1 (pid 4711) died with exit code -9 (SIGKILL) before it served, 6 times in")
    assert "Its last words: the disk is on fire" in text
    assert f"sheepfold up --shards 2 --dir {tmp_path}" in text
    assert "\n" not in text


@pytest.mark.parametrize("part", ["coordinator", "shard 0"])
def test_dead_part_that_had_served_is_told_once_and_started_again(part: str, tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(UpConfig(tmp_path), threading.Event(), said.append)
    supervisor.directory.take()
    child = supervisor.coordinator if part == "coordinator" else supervisor.shards[0]
    child._process = Dead(-signal.SIGKILL)  # type: ignore[assignment]
    supervisor.check()
    supervisor.check()
    assert said == [
        f"{part} (pid 4711) died with exit code -9 (SIGKILL); workers wait, it is started again in 0.5 s"
    ]
    supervisor.directory.release()


def test_dead_dashboard_is_told_once_and_loses_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(UpConfig(tmp_path), threading.Event(), said.append)
    supervisor.directory.take()
    supervisor.dashboard._process = Dead(1)  # type: ignore[assignment]
    supervisor.check()
    supervisor.check()
    supervisor.directory.release()
    assert len(said) == 1
    assert "training goes on" in said[0]


# --- logs ---------------------------------------------------------------------------------------------


def test_record_is_one_line_with_time_level_and_role() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("shard-0"))
    log = logging.Logger("test")
    log.addHandler(handler)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("it failed")
    assert stream.getvalue().count("\n") == 1
    assert " ERROR shard-0 it failed | Traceback" in stream.getvalue()
    assert stream.getvalue()[:2] == "20"
    assert stream.getvalue().split()[0].endswith("Z")
