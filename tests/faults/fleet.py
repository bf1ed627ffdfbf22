"""Real processes under the supervisor, killed by pid: what `sheepfold up` runs, with workers beside it.

Links between them can lead through proxies, and their processes can have failpoints.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.faults.failpoints import VARIABLE, Armed
from tests.faults.proxy import Proxy
from tests.integration.harness import digest_of

import sheepfold_wire.messages as m
from sheepfold.transport import TransportError
from sheepfold.transport.grpc import GrpcTransport
from sheepfold.transport.shared_memory import VARIABLE as SHARED_MEMORY
from sheepfold_server.shell import child as children
from sheepfold_server.shell import supervisor as supervision
from sheepfold_server.shell.child import Child
from sheepfold_server.shell.supervisor import Supervisor, UpConfig
from sheepfold_server.shell.tether import tethered
from sheepfold_wire.connection import Connection
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.job import Job

HERE = Path(__file__).parent
SCRIPT, FAILING = HERE / "script.py", HERE / "failing.py"
DEADLINE_SECONDS = 120.0
LOOK_SECONDS = 0.02


class Links:
    """A proxy for each link of a fleet."""

    def __init__(self, supervisor: Supervisor, seed: int) -> None:
        shards = supervisor.shards
        self.of_workers = Proxy(lambda: supervisor.coordinator.address, seed)
        self.of_shards = Proxy(lambda: supervisor.servers_address, seed + 1)
        self.to_shards = [
            Proxy(lambda shard=shard: shard.address, seed + 2 + index)  # type: ignore[misc]
            for index, shard in enumerate(shards)
        ]

    @property
    def all(self) -> dict[str, Proxy]:
        """By what a link joins."""
        to_shards = {f"workers to shard {index}": proxy for index, proxy in enumerate(self.to_shards)}
        named = {"workers to coordinator": self.of_workers, "shards to coordinator": self.of_shards}
        return named | to_shards

    def led(self, command: list[str]) -> list[str]:
        """The command of a shard that is to reach its coordinator, and be reached, through its proxies."""
        at, index = command.index("--coordinator") + 1, int(command[command.index("--index") + 1])
        told = ["--advertise", self.to_shards[index].address]
        return [*command[:at], self.of_shards.address, *command[at + 1 :], *told]

    def close(self) -> None:
        for proxy in self.all.values():
            proxy.close()


@dataclass(frozen=True)
class Staging:
    """How a fleet is set up to be disturbed."""

    shards: int = 2
    proxies_seed: int | None = None
    """None: no proxies."""
    has_failpoints: bool = False
    is_secured: bool = False
    shares_memory: bool = True
    """Whether payloads may go through memory, past the proxies."""
    steps_per_second_max: float | None = None
    """The quota of every job."""


class KilledFleet:
    """Coordinator, shards and dashboard in a directory; workers as processes of their own."""

    def __init__(self, directory: Path, job: Job, staging: Staging = Staging()) -> None:
        self.job, self.directory, self.staging = job, directory, staging
        config = UpConfig(
            directory,
            shard_count=staging.shards,
            port=0,
            dashboard_port=0,
            checkpoint_url=str(directory / "checkpoints"),
            is_secured=staging.is_secured,
        )
        self.said: list[str] = []
        self.last_refusal = ""
        """Of what was asked of the coordinator, for who reads of a failure."""
        self.supervisor = Supervisor(config, threading.Event(), self.said.append)
        seed = staging.proxies_seed
        self.links = None if seed is None else Links(self.supervisor, seed)
        self.armed = Armed(directory / "failpoints")
        self.workers: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        self.supervisor.start()

    def command_of(self, command: list[str]) -> list[str]:
        """What a role is started with, by way of proxies and failpoints."""
        python, *module, role = command[:4]
        if role == "coordinator" and self.staging.steps_per_second_max is not None:
            command = [*command, "--quota", f"steps_per_second={self.staging.steps_per_second_max}"]
        if self.links is not None and role == "shard":
            command = self.links.led(command)
        if self.staging.has_failpoints and module == ["-m", "sheepfold_server"]:
            command = [python, str(FAILING), "server", *command[3:]]
        return command

    @property
    def connection(self) -> Connection:
        """For whoever watches: past all proxies."""
        return replace(self.supervisor.connection, target=self.supervisor.coordinator.address)

    @property
    def admin(self) -> Connection:
        """For whoever changes jobs: past all proxies."""
        return replace(self.supervisor.admin, target=self.supervisor.coordinator.address)

    @property
    def address(self) -> str:
        return self.connection.secret

    @property
    def address_for_workers(self) -> str:
        if self.links is None:
            return self.address
        return replace(self.connection, target=self.links.of_workers.address).secret

    def add_worker(self) -> None:
        log = (self.directory / f"worker-{len(self.workers)}.log").open("w")
        failing = [str(FAILING), "worker"] if self.staging.has_failpoints else []
        command = [sys.executable, *failing, str(SCRIPT), self.address_for_workers, self.job.to_json()]
        environment = {**os.environ, VARIABLE: str(self.armed.folder)}
        self.workers.append(subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment))
        log.close()

    def kill(self, child: Child) -> None:
        os.kill(child.pid, signal.SIGKILL)

    def status(self) -> m.JobStatus | None:
        """None while the coordinator does not answer, or has no such job."""
        transport = GrpcTransport(self.connection)
        try:
            return transport.call(m.StatusRequest(self.job.name))  # type: ignore[no-any-return]
        except (SheepfoldError, TransportError):
            return None
        finally:
            transport.close()

    def version(self) -> int:
        status = self.status()
        return -2 if status is None else status.version

    def lineage(self) -> str:
        """Another one than before: committed steps were given up, and computed again to the same bits."""
        self.until(lambda: self.status() is not None, "an answer of the coordinator")
        status = self.status()
        assert status is not None
        return status.lineage

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
        refused = f"last refused: {self.last_refusal or 'nothing'}"
        return f"{refused}; status {self.status()}, said {self.said}\n" + "\n".join(tails)

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
        if self.links is not None:
            self.links.close()


@contextmanager
def killed_fleet(
    directory: Path,
    job: Job,
    workers: int = 2,
    staging: Staging = Staging(),
) -> Iterator[KilledFleet]:
    """Started, with workers at work; whatever dies is started again at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervision, "RESTART_SECONDS_FIRST", 0.1)
        patch.setattr(supervision, "RESTART_SECONDS_MAX", 0.1)
        fleet = KilledFleet(directory, job, staging)
        patch.setattr(children, "tethered", lambda command: tethered(fleet.command_of(command)))
        patch.setenv(VARIABLE, str(fleet.armed.folder))
        patch.setenv(SHARED_MEMORY, str(int(staging.shares_memory)))
        try:
            fleet.start()
            for _ in range(workers):
                fleet.add_worker()
            yield fleet
        finally:
            fleet.close()
