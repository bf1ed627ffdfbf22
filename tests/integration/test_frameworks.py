"""Loops and trainers of others as workers of a real job: one of two is killed, the other ends it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.harness import RunningFold, running_fold, until

import sheepfold_wire.messages as m

EXAMPLES = Path(__file__).parents[2] / "client" / "examples"
DIES_ONCE = Path(__file__).with_name("dies_once.py")
STEPS = {"accelerate_loop": 120, "hf_trainer": 100, "lightning_module": 120}
"""`stop.steps` of each example's job."""
SLOTS = 2
"""K in each of them."""
START_SECONDS = 90.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@contextmanager
def started(fold: RunningFold, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that finds the fold; it does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "SHEEPFOLD": fold.address, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()  # torchrun then ends its own
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def control(fold: RunningFold, action: str) -> None:
    (job,) = fold.fleet.jobs()
    fold.fleet.call(m.ControlRequest(job, action, "the test")).result(10)


def status(fold: RunningFold) -> m.JobStatus:
    (job,) = fold.fleet.jobs()
    return fold.fleet.status(job)


def version(fold: RunningFold) -> int:
    return status(fold).version if fold.fleet.jobs() else -1


def slots_committed(fold: RunningFold, worker: subprocess.Popen[str]) -> int:
    return sum(row.slots_committed for row in status(fold).workers if row.pid == worker.pid)


def hold_until_two_workers_are_there(fold: RunningFold, *processes: subprocess.Popen[str]) -> None:
    """Starting takes seconds, and the whole job hardly more: it is paused until both have arrived."""

    def has_begun() -> bool:
        for process in processes:
            assert process.poll() is None, process.communicate()
        return version(fold) >= 0

    until(has_begun, "the job begins", START_SECONDS)
    control(fold, "pause")
    until(lambda: len(status(fold).workers) == 2, "two workers are there", START_SECONDS)
    control(fold, "resume")


@pytest.mark.parametrize("example", sorted(STEPS))
def test_when_one_of_two_workers_is_killed_half_way_the_other_ends_the_job(example: str) -> None:
    steps, program = STEPS[example], str(EXAMPLES / f"{example}.py")
    with running_fold(2) as fold, started(fold, program) as victim, started(fold, program) as survivor:
        hold_until_two_workers_are_there(fold, victim, survivor)
        until(
            lambda: version(fold) >= steps // 2 and slots_committed(fold, victim) > 0,
            "half of the job is done",
            START_SECONDS,
        )
        victim.send_signal(signal.SIGKILL)
        assert victim.wait(10) == -signal.SIGKILL
        assert version(fold) < steps
        output, errors = survivor.communicate(timeout=START_SECONDS)
        assert survivor.returncode == 0, errors
        assert re.fullmatch(rf"version {steps}: loss \d\.\d+", output.splitlines()[-1]), output
        assert "Traceback" not in errors, errors
        assert (version(fold), status(fold).counts.committed) == (steps, steps * SLOTS)


def test_torchrun_starts_workers_again_and_the_job_goes_on_where_it_stood() -> None:
    """One of two processes kills itself; torchrun then starts both again, as new workers."""
    steps, program = 120, (str(DIES_ONCE), str(EXAMPLES / "torchrun_worker.py"), "60")
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    with (
        running_fold(2) as fold,
        started(fold, *launch, *program) as torchrun,
    ):
        hold_until_two_workers_are_there(fold, torchrun)
        output, errors = torchrun.communicate(timeout=2 * START_SECONDS)
        assert torchrun.returncode == 0, errors
        assert re.search(rf"^version {steps}: loss", output, flags=re.M), output
        assert version(fold) == steps
    begun = re.findall(r"rank (\d) of 2, restart (\d): begins at version (\d+)", errors)
    assert {(rank, restart) for rank, restart, _ in begun} == {(r, n) for r in "01" for n in "01"}
    assert all(int(at) >= steps // 2 for _, restart, at in begun if restart == "1")
