"""`sheepfold doctor` against a real `sheepfold up`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from tests.integration.test_cli_up import JOB, Up, sheepfold

import sheepfold as client
from sheepfold_wire.control import Control

pytestmark = pytest.mark.slow

BIG_JOB = {
    "name": "big",
    "batch": {"samples": 64, "slot_samples": 8},
    "data": {"samples": 1000},
    "optimizer": {"lr": {"peak": 0.01}},
    "placement": {"split_above_bytes": 1 << 20},
    "numerics": {"kernel": "eager"},  # compiling takes a minute
    "stop": {"steps": 10},
}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("up") / "state")
    yield running
    running.close()


def lines_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Name of a check to the rest of its line."""
    assert done.stderr == ""
    return {line[:17].strip(): line[18:] for line in done.stdout.splitlines()}


def test_healthy_way_to_the_coordinator_is_ok(up: Up) -> None:
    done = sheepfold("doctor", "--address", up.address)
    found = lines_of(done)
    assert done.returncode == 0, done.stdout
    assert found["address"] == f"ok: {up.address}, from --address"
    assert found["TCP"].startswith("ok: ")
    assert found["gRPC"].startswith("ok: ListJobs answered in ")
    assert found["clock"].startswith("ok: ")
    assert found["server version"] == f"ok: {version('sheepfold')}, as here"


def test_declared_job_leads_to_its_shards_but_has_no_weights(up: Up, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB)
    assert sheepfold("job", "create", "-f", str(tmp_path / "job.toml"), address=up.address).returncode == 0
    done = sheepfold("doctor", "--job", "lenet", address=up.address)
    found = lines_of(done)
    assert done.returncode == 0, done.stdout
    assert found["address"].endswith("from $SHEEPFOLD")
    for shard in (0, 1):
        assert found[f"shard {shard} TCP"].startswith("ok: 127.0.0.1:")
        assert found[f"shard {shard} request"].endswith("with 9,000 bytes")
        assert found[f"shard {shard} weights"] == "skipped: needs weights, and job lenet has none yet"


def test_weights_of_every_shard_are_pulled_and_no_worker_is_left_behind(up: Up) -> None:
    weights = {"w": np.zeros((1200, 1024), np.float32)}
    with client.Client(parameters=weights, address=up.address, config=BIG_JOB) as worker:
        assert worker.lease() is not None  # after the init lease: version 0
        done = sheepfold("doctor", address=up.address)
        found = lines_of(done)
        assert done.returncode == 0, done.stdout
        assert found["job"] == "ok: big is running at version 0, 2 shards"
        for shard in (0, 1):
            assert found[f"shard {shard} weights"].startswith("ok: version 0, ")
            assert found[f"shard {shard} weights"].endswith(" MB/s")
        with Control(up.address) as control:
            assert len(control.status("big").workers) == 1


def test_unknown_job_fails_and_names_one_that_exists(up: Up, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB)
    sheepfold("job", "create", "-f", str(tmp_path / "job.toml"), address=up.address)
    done = sheepfold("doctor", "--job", "nope", address=up.address)
    assert done.returncode == 1
    assert lines_of(done)["job"].startswith("FAILED: no job named 'nope'")
    assert "--job " in lines_of(done)["job"]
    assert lines_of(done)["shards"] == "skipped: needs job"


def test_address_of_the_dashboard_is_not_the_coordinators(up: Up) -> None:
    done = sheepfold("doctor", address=up.facts()["dashboard"]["address"])
    assert done.returncode == 1
    assert lines_of(done)["TCP"].startswith("ok: ")
    assert "Compare" in lines_of(done)["gRPC"]


def test_shard_that_hangs_is_found(up: Up, tmp_path: Path) -> None:
    """The kernel still takes its connections."""
    (tmp_path / "job.toml").write_text(JOB)
    sheepfold("job", "create", "-f", str(tmp_path / "job.toml"), address=up.address)
    pid = up.facts()["shards"][1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        done = sheepfold("doctor", "--job", "lenet", address=up.address)
    finally:
        os.kill(pid, signal.SIGCONT)
    found = lines_of(done)
    assert done.returncode == 1
    assert found["shard 0 request"].startswith("ok: ")
    assert found["shard 1 TCP"].startswith("ok: ")
    assert found["shard 1 request"].startswith("FAILED: a small request fails: ")
    assert found["shard 1 weights"] == "skipped: needs shard 1 request"
