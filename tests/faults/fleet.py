"""Real processes under the supervisor, killed by pid: what `sheepfold up` runs, with workers beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.harness import digest_of

import sheepfold_wire.messages as m
from sheepfold.transport import TransportError
from sheepfold.transport.grpc import GrpcTransport
from sheepfold_server.shell import supervisor as supervision
from sheepfold_server.shell.child import Child
from sheepfold_server.shell.supervisor import Supervisor, UpConfig
from sheepfold_wire.connection import Connection
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.job import Job

SCRIPT = Path(__file__).parent / "script.py"
DEADLINE_SECONDS = 120.0
LOOK_SECONDS = 0.02


class KilledFleet:
    """Coordinator, shards and dashboard in a directory; workers as processes of their own."""

    def __init__(self, directory: Path, job: Job, shards: int = 2) -> None:
        self.job, self.directory = job, directory
        config = UpConfig(
            directory,
            shard_count=shards,
            port=0,
            dashboard_port=0,
            checkpoint_url=str(directory / "checkpoints"),
        )
        self.said: list[str] = []
        self.supervisor = Supervisor(config, threading.Event(), self.said.append)
        self.workers: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        self.supervisor.start()

    @property
    def address(self) -> str:
        return self.supervisor.coordinator.address

    def add_worker(self) -> None:
        log = (self.directory / f"worker-{len(self.workers)}.log").open("w")
        command = [sys.executable, str(SCRIPT), self.address, self.job.to_json()]
        self.workers.append(subprocess.Popen(command, stdout=log, stderr=log, text=True))
        log.close()

    def kill(self, child: Child) -> None:
        os.kill(child.pid, signal.SIGKILL)

    def status(self) -> m.JobStatus | None:
        """None while the coordinator does not answer, or has no such job."""
        transport = GrpcTransport(Connection(self.address))
        try:
            return transport.call(m.StatusRequest(self.job.name))  # type: ignore[no-any-return]
        except (SheepfoldError, TransportError):
            return None
        finally:
            transport.close()

    def version(self) -> int:
        status = self.status()
        return -2 if status is None else status.version

    def kept(self) -> int:
        """Newest version that is kept; -2 as in `version`."""
        status = self.status()
        return -2 if status is None else status.checkpoint_version

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Tends the processes meanwhile."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < end, f"not within {DEADLINE_SECONDS:.0f} s: {what}; {self._told()}"
            self.supervisor.check()
            time.sleep(LOOK_SECONDS)

    def _told(self) -> str:
        logs = sorted(self.directory.glob("*.log")) + sorted((self.directory / "logs").glob("*.log"))
        tails = [f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-12:]) for log in logs]
        return f"status {self.status()}, said {self.said}\n" + "\n".join(tails)

    def finish(self, may_be_killed: bool = False) -> str:
        """Wait for the workers, who end with the job; the digest. `may_be_killed`: some were, on purpose."""
        self.until(lambda: all(w.poll() is not None for w in self.workers), "the end of the workers")
        codes = {worker.returncode for worker in self.workers}
        allowed = {0, -signal.SIGKILL} if may_be_killed else {0}
        assert codes <= allowed, f"workers ended with {codes}; {self._told()}"
        self.until(lambda: self.version() == self.job.stop.steps, "the last version")
        return digest_of(self.address, self.job.name)

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
        self.supervisor.stop()


@contextmanager
def killed_fleet(directory: Path, job: Job, workers: int = 2, shards: int = 2) -> Iterator[KilledFleet]:
    """Started, with workers at work; whatever dies is started again at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervision, "RESTART_SECONDS_FIRST", 0.1)
        patch.setattr(supervision, "RESTART_SECONDS_MAX", 0.1)
        fleet = KilledFleet(directory, job, shards)
        try:
            fleet.start()
            for _ in range(workers):
                fleet.add_worker()
            yield fleet
        finally:
            fleet.close()
