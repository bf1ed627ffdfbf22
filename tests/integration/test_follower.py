"""The dashboard's reading side against a real coordinator that goes away and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sheepfold_server.dashboard.follower import Follower
from sheepfold_server.dashboard.store import Store
from sheepfold_server.shell.child import Child
from sheepfold_wire import messages as m
from sheepfold_wire.control import Control
from sheepfold_wire.job import parse_job

pytestmark = pytest.mark.slow

DEADLINE_SECONDS = 60.0
JOB = parse_job(
    {
        "name": "lenet",
        "batch": {"samples": 64, "slot_samples": 8},
        "data": {"samples": 1000},
        "optimizer": {"lr": {"peak": 0.01}},
        "stop": {"steps": 10},
    }
)


def eventually(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        time.sleep(0.05)  # between two looks at a condition, never instead of one


def coordinator(log: Path, listen: str) -> Child:
    child = Child("coordinator", ["coordinator", "--shards", "1", "--listen", listen], log)
    child.start()
    child.await_address(threading.Event())
    return child


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Child]:
    child = coordinator(tmp_path / "first.log", "127.0.0.1:0")
    yield child
    child.terminate()
    child.wait(10.0)


def test_follower_finds_jobs_says_when_nobody_answers_and_finds_the_next_coordinator(
    first: Child, tmp_path: Path
) -> None:
    store = Store()
    follower = Follower(store, first.address)
    follower.start()
    eventually(lambda: store.trouble() == "", "the first coordinator's answer")
    with Control(first.address) as control:
        control.create(m.CreateJobRequest("r", JOB.to_json()))
    eventually(lambda: [status.job for status in store.jobs()] == ["lenet"], "the job")

    first.terminate()
    first.wait(10.0)
    eventually(lambda: f"no coordinator answers at {first.address}" in store.trouble(), "the trouble")
    assert [status.job for status in store.jobs()] == ["lenet"], "what was known stays readable"

    second = coordinator(tmp_path / "second.log", first.address)
    eventually(lambda: store.trouble() == "" and not store.jobs(), "the second coordinator's empty list")
    follower.close()
    second.terminate()
    second.wait(10.0)
