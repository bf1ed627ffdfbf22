"""Ctrl-C, SIGTERM and the exit codes of a training script, with real processes and servers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import pytest
from tests.integration.harness import digest_of, running_fold, small_job, train, until
from tests.integration.test_cli_up import Up

import sheepfold_wire.messages as m
from sheepfold_wire.control import Control
from sheepfold_wire.job import Job

PROGRAM = Path(__file__).with_name("script.py")
pytestmark = pytest.mark.slow


@contextmanager
def script(address: str, job: Job, doing: str = "fast") -> Iterator[subprocess.Popen[str]]:
    """The script in a process of its own, which is killed in the end if it still runs."""
    command = [sys.executable, str(PROGRAM), address, job.to_json(), doing]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def interrupted(process: subprocess.Popen[str]) -> None:
    """Ctrl-C reaches the script's own code within a second; the process ends when it can."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert line(process.stdout) == "interrupted"
    assert time.monotonic() - began < 1.0
    assert process.wait(20) == -signal.SIGINT


# --- Ctrl-C ----------------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_wait_for_a_server_within_a_second() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refused for as long as the test runs
        with script(f"127.0.0.1:{nobody.getsockname()[1]}", small_job()) as process:
            assert line(process.stdout) == "begins"
            assert "failed" in line(process.stderr) or process.poll() is None
            interrupted(process)


def test_ctrl_c_ends_the_wait_for_work_within_a_second() -> None:
    with running_fold(1) as fold:
        job = small_job()
        with script(fold.address, job, "hold") as first:
            assert [line(first.stdout) for _ in range(3)] == ["begins", "attached", "slot 0"]
            with Control(fold.address) as control:
                control.control(m.ControlRequest("small", "pause", "test"))
            with script(fold.address, job) as second:
                assert [line(second.stdout) for _ in range(2)] == ["begins", "attached"]
                interrupted(second)


def test_ctrl_c_ends_a_push_to_a_shard_that_hangs_within_a_second(tmp_path: Path) -> None:
    """`sheepfold up` in processes: a shard under SIGSTOP takes the connection and never answers."""
    with closing(Up(tmp_path / "state")) as up, script(up.address, small_job(), "hold") as process:
        assert [line(process.stdout) for _ in range(3)] == ["begins", "attached", "slot 0"]
        shard = up.facts()["shards"][0]["pid"]
        os.kill(shard, signal.SIGSTOP)
        try:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.0)
            interrupted(process)
        finally:
            os.kill(shard, signal.SIGCONT)


# --- SIGTERM ---------------------------------------------------------------------------------------------


def test_a_slot_that_is_nearly_done_is_finished_before_the_worker_leaves() -> None:
    job = small_job(leases={"seconds": 1000.0})
    with running_fold(2) as fold:
        with script(fold.address, job, "hold") as process:
            assert process.stdin is not None
            assert [line(process.stdout) for _ in range(3)] == ["begins", "attached", "slot 0"]
            time_first_slot = time.monotonic()
            until(lambda: time.monotonic() - time_first_slot > 1.0, "the first slot took a second")
            process.stdin.write("\n")
            process.stdin.flush()
            assert line(process.stdout) == "step 0 True"
            assert line(process.stdout) == "slot 1"
            process.terminate()
            assert process.stderr is not None
            assert any("the slot is finished in about" in told for told in process.stderr)
            process.stdin.write("\n")
            process.stdin.flush()
            assert line(process.stdout) == "step 0 True"
            assert process.wait(20) == 75
        # Its goodbye may overtake the shards' word that all is staged, and hands nothing back all the same.
        counts = fold.fleet.status("small").counts
        assert (counts.leased, counts.dropped) == (2, 0)


# --- exit codes ------------------------------------------------------------------------------------------


def test_a_script_that_is_refused_says_never_retry() -> None:
    with running_fold(1) as fold:
        train(fold.address, small_job())
        with script(fold.address, small_job(stop={"steps": 9})) as process:
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 78
            assert errors.splitlines()[-1] == "sheepfold: exit code 78: never retry"
            assert "stop.steps is 4 in the job and 9 in the request" in errors


def test_workers_of_a_job_log_its_steps_and_stop_together_with_exit_code_0() -> None:
    """K = 8, three workers; one is killed and started again in the middle."""
    job = small_job(stop={"steps": 12}, leases={"seconds": 5.0})
    with running_fold(2) as fold:
        train(fold.address, job)
        golden = digest_of(fold.address, "small")
    with running_fold(2) as fold:
        with script(fold.address, job) as a, script(fold.address, job) as b:
            with script(fold.address, job) as victim:
                assert [line(victim.stdout) for _ in range(2)] == ["begins", "attached"]
                until(lambda: fold.fleet.status("small").version >= 4, "a third of the job is done")
                victim.kill()
                victim.wait(10)
            with script(fold.address, job) as again:
                outputs = [process.communicate(timeout=60)[0] for process in (a, b, again)]
                assert [process.returncode for process in (a, b, again)] == [0, 0, 0]
        steps = [
            [int(told.split()[1]) for told in text.splitlines() if told.startswith("step")]
            for text in outputs
        ]
        assert all(text.splitlines()[-1] == "ended at 12" for text in outputs)
        assert set().union(*steps) <= set(range(12))
        assert all(numbers == sorted(numbers) for numbers in steps)
        assert min(steps[2], default=4) >= 4  # it went on with the job's step, not with one of its own
        assert fold.fleet.status("small").counts.committed == 8 * 12
        assert digest_of(fold.address, "small") == golden
