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
STEPS = {"hf_trainer": 100}
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
    try:
        with process:
            yield process
            process.kill()
    finally:
        process.kill()


def control(fold: RunningFold, job: str, action: str) -> None:
    fold.fleet.call(m.ControlRequest(job, action, "the test")).result(10)


def version(fold: RunningFold, job: str) -> int:
    return fold.fleet.status(job).version if job in fold.fleet.jobs() else -1


def slots_committed(fold: RunningFold, job: str, worker: subprocess.Popen[str]) -> int:
    return sum(row.slots_committed for row in fold.fleet.status(job).workers if row.pid == worker.pid)


def hold_until_both_are_there(fold: RunningFold, job: str, *workers: subprocess.Popen[str]) -> None:
    """Starting takes seconds, and the whole job hardly more: pause it until all have arrived."""

    def has_begun() -> bool:
        assert all(worker.poll() is None for worker in workers), workers[0].communicate()
        return version(fold, job) >= 0

    until(has_begun, "the job begins", START_SECONDS)
    control(fold, job, "pause")
    until(lambda: len(fold.fleet.status(job).workers) == 2, "both workers are there", START_SECONDS)
    control(fold, job, "resume")


@pytest.mark.parametrize("example", sorted(STEPS))
def test_when_one_of_two_workers_is_killed_half_way_the_other_ends_the_job(example: str) -> None:
    steps, job, program = STEPS[example], example.replace("_", "-"), str(EXAMPLES / f"{example}.py")
    with running_fold(2) as fold, started(fold, program) as victim, started(fold, program) as survivor:
        hold_until_both_are_there(fold, job, victim, survivor)
        until(lambda: version(fold, job) >= steps // 2, "half of the job is done", START_SECONDS)
        assert slots_committed(fold, job, victim) > 0
        victim.send_signal(signal.SIGKILL)
        assert victim.wait(10) == -signal.SIGKILL
        assert version(fold, job) < steps
        output, errors = survivor.communicate(timeout=START_SECONDS)
        assert survivor.returncode == 0, errors
        assert re.fullmatch(rf"version {steps}: loss \d\.\d+", output.splitlines()[-1]), output
        assert "Traceback" not in errors, errors
        status = fold.fleet.status(job)
        assert (status.version, status.counts.committed) == (steps, steps * SLOTS)
