"""The scripts of deploy/slurm under bash: Slurm is a stand-in, servers, workers and the job are real."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.faults.fleet import DEADLINE_SECONDS
from tests.image.test_dockerfile import tool
from tests.integration.harness import digest_of, running_fold, small_job, train, until

from sheepfold_wire.connection import parse_connection

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "deploy" / "slurm"
SCRIPTS = sorted(SLURM.glob("*.sbatch"))
BIN = Path(__file__).parent / "bin"
SERVERS_ID, ARRAY_ID = 100, 200
STEPS = 24


class Cluster:
    """Where scripts are submitted to: one node, called localhost."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._running: list[Submitted] = []

    def servers(self, restarts: int = 0) -> Submitted:
        given = {"SLURM_JOB_ID": str(SERVERS_ID), "SLURM_NTASKS": "3", "SLURM_CPUS_PER_TASK": "1"}
        return self._submit("servers", given, restarts)

    def worker(self, task: int, job_json: str, restarts: int = 0) -> Submitted:
        """Task of an array, whose own job ids are those after the array's."""
        given = {
            "SLURM_JOB_ID": str(ARRAY_ID + 1 + task),
            "SLURM_ARRAY_JOB_ID": str(ARRAY_ID),
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_NTASKS": "1",
        }
        return self._submit("workers", given, restarts, sys.executable, "-m", "tests.slurm.worker", job_json)

    def _submit(self, script: str, given: dict[str, str], restarts: int, *arguments: str) -> Submitted:
        env = os.environ | given
        env |= {
            "PATH": f"{BIN}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "SHEEPFOLD_STATE": str(self.state),
            "SHEEPFOLD_PORT": str(self._port),
            "SLURMD_NODENAME": "localhost",
            "SLURM_JOB_NODELIST": "localhost",
            "FAKE_SLURM": str(self.folder),
        }
        if restarts:
            env["SLURM_RESTART_COUNT"] = str(restarts)
        log = self.folder / f"slurm-{given['SLURM_JOB_ID']}.out"
        submitted = Submitted([SLURM / f"{script}.sbatch", *arguments], env, log)
        self._running.append(submitted)
        return submitted

    def cancel(self, job: int, submitted: Submitted) -> None:
        (self.folder / f"{job}.state").write_text("COMPLETING\n")
        submitted.preempt()

    def pid(self, job: int, rank: int) -> int:
        return int((self.folder / f"{job}-{rank}.pid").read_text())

    @property
    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def close(self) -> None:
        for each in self._running:
            each.close()


class Submitted:
    """A batch script that runs. Slurm would end all of its tasks with it."""

    def __init__(self, command: list[str | Path], env: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as file:  # --open-mode=append
            self.process = subprocess.Popen(
                ["bash", *command], env=env, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def steps(self) -> list[int]:
        return [int(number) for number in re.findall(r"^step (\d+)$", self.log, re.MULTILINE)]

    def ended(self) -> int:
        try:
            return self.process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end:\n{self.log}") from None

    def preempt(self) -> None:
        """SIGTERM to the script and to srun, which passes it on."""
        os.killpg(self.process.pid, signal.SIGTERM)

    def close(self) -> None:
        if self.process.poll() is None:
            self.preempt()
            self.ended()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    found = Cluster(folder)
    try:
        yield found
    finally:
        found.close()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_job_ends_in_the_same_bits_through_preemption_a_killed_shard_and_a_requeue(tmp_path: Path) -> None:
    job = small_job(stop={"steps": STEPS}, leases={"seconds": 5.0})
    with running_fold(2) as plain:
        train(plain.address, job)
        golden = digest_of(plain.address, job.name)

    with cluster(tmp_path) as slurm:
        workers = [slurm.worker(task, job.to_json()) for task in range(2)]
        servers = slurm.servers()

        def is_past(step: int) -> bool:
            return max(workers[0].steps + workers[1].steps, default=-1) >= step

        until(lambda: is_past(3), "step 3", DEADLINE_SECONDS)
        workers[0].preempt()
        assert workers[0].ended() == 75, workers[0].log
        assert slurm.asked == [f"scontrol requeue {ARRAY_ID + 1}"]
        workers[0] = slurm.worker(0, job.to_json(), restarts=1)

        os.kill(slurm.pid(SERVERS_ID, 2), signal.SIGKILL)
        until(lambda: is_past(9), "step 9", DEADLINE_SECONDS)
        assert servers.process.poll() is None, servers.log

        servers.process.send_signal(signal.SIGUSR1)
        assert servers.ended() == 0, servers.log
        assert slurm.asked[1:] == [f"scontrol requeue {SERVERS_ID}"]
        servers = slurm.servers(restarts=1)

        assert [worker.ended() for worker in workers] == [0, 0], [worker.log for worker in workers]
        for worker in workers:
            assert worker.steps == sorted(worker.steps), "a committed step was lost"
        line = (slurm.state / "connection").read_text().strip()
        assert parse_connection(line).ca
        assert digest_of(line, job.name) == golden

        other = slurm.worker(2, small_job(seed=12).to_json())
        assert other.ended() == 78, other.log
        assert slurm.asked[2:] == [f"scancel {ARRAY_ID}"]
        slurm.cancel(SERVERS_ID, servers)
        assert servers.ended() == 0
        assert len(slurm.asked) == 3, "who cancels the servers does not want them back"
        assert (slurm.state / "tls").stat().st_mode & 0o077 == 0
        assert (slurm.state / "connection").stat().st_mode & 0o077 == 0


def test_scripts_are_clean_and_may_be_requeued() -> None:
    assert [path.stem for path in SCRIPTS] == ["servers", "workers"]
    done = subprocess.run(
        [tool("shellcheck"), *map(str, SCRIPTS)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
    for path in SCRIPTS:
        asked = re.findall(r"^#SBATCH --(\S+)", path.read_text(), re.MULTILINE)
        assert {"requeue", "open-mode=append"} <= set(asked), path.name
