"""A coordinator and shards over real gRPC on free ports, and small workers that train through them."""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import sheepfold
from sheepfold_server.core.permissions import Role
from sheepfold_server.shell.certificates import keep_join_token
from sheepfold_server.shell.coordinator_main import CoordinatorConfig, CoordinatorServer
from sheepfold_server.shell.security import Security, SecurityFiles, read_security
from sheepfold_server.shell.shard_main import ShardServer
from sheepfold_server.shell.shard_process import ShardConfig
from sheepfold_wire.connection import Connection
from sheepfold_wire.job import Job, parse_job

DEADLINE_SECONDS = 60.0
SAMPLES = 64
FEATURES = 420
SPLIT_ABOVE_BYTES = 300_000


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The one loop of this process: grpc.aio does not take to a second one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="event-loop", daemon=True)
    thread.start()

    def close() -> None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_SECONDS)
        loop.close()

    atexit.register(close)
    return loop


@dataclass(frozen=True, slots=True)
class Detour:
    """Addresses that lead to servers by way of something else."""

    up: str
    """Where shards look for their coordinator."""
    to_shards: Sequence[str]
    """Where workers are told to find each shard."""


class RunningFold:
    """Servers of this process; `address` is the coordinator's."""

    def __init__(
        self,
        shards: int,
        staging_bytes: int = 1 << 30,
        tls: Path | None = None,
        directory: Path | None = None,
        checkpoints: Path | None = None,
        detour: Detour | None = None,
    ) -> None:
        """`directory`: where everyone keeps a log, each in its own; `checkpoints`: where all keep those.

        `tls`: a folder as `make_security` leaves it; None is plain text.
        """
        self.tls = tls
        self.security = self._security("coordinator")
        self._directory, self._checkpoints = directory, checkpoints
        started: Future[CoordinatorServer] = Future()
        self._stopped = asyncio.Event()
        self._served = asyncio.run_coroutine_threadsafe(self._serve(shards, started), event_loop())
        self._coordinator = started.result(DEADLINE_SECONDS)
        self.fleet = self._coordinator.fleet
        self.address = self._coordinator.address
        self.servers_address = self._coordinator.servers_address
        token = "" if tls is None else keep_join_token(tls, Role.ADMIN, time.time())
        self.connection = Connection(self.address, self.security.ca, token)
        config = ShardConfig(
            shard=0,
            shard_count=shards,
            coordinator=Connection(self.servers_address if detour is None else detour.up, self.security.ca),
            staging_bytes=staging_bytes,
            security=self._security("shard"),
        )
        self.shards = [
            ShardServer(
                replace(
                    config,
                    shard=i,
                    directory=self._part(f"shard-{i}"),
                    advertise="" if detour is None else detour.to_shards[i],
                )
            )
            for i in range(shards)
        ]
        for shard in self.shards:
            shard.start()

    def _security(self, role: str) -> Security:
        return Security() if self.tls is None else read_security(SecurityFiles.in_folder(self.tls, role))

    def _part(self, name: str) -> Path | None:
        return None if self._directory is None else self._directory / name

    async def _serve(self, shards: int, started: Future[CoordinatorServer]) -> None:
        url = "" if self._checkpoints is None else str(self._checkpoints)
        links = "" if self.tls is None else "127.0.0.1:0"
        listen, directory = "127.0.0.1:0", self._part("coordinator")
        config = CoordinatorConfig(shards, listen, self.security, directory, url, links)
        try:
            server = CoordinatorServer(config)
            await server.start()
        except Exception as error:
            started.set_exception(error)
            return
        started.set_result(server)
        await server.serve(self._stopped)

    def close(self) -> None:
        for shard in self.shards:
            shard.stop()
        event_loop().call_soon_threadsafe(self._stopped.set)
        self._served.result(DEADLINE_SECONDS)


@contextmanager
def running_fold(
    shards: int,
    staging_bytes: int = 1 << 30,
    tls: Path | None = None,
    directory: Path | None = None,
    checkpoints: Path | None = None,
    detour: Detour | None = None,
) -> Iterator[RunningFold]:
    fold = RunningFold(shards, staging_bytes, tls, directory, checkpoints, detour)
    try:
        yield fold
    finally:
        fold.close()


def until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for a condition, with a deadline; fails saying what did not happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.005)


def small_job(name: str = "small", **changes: Any) -> Job:
    """Four steps of eight slots on 64 samples; `changes` replace whole sections."""
    values: dict[str, Any] = {
        "name": name,
        "batch": {"samples": 32, "slot_samples": 4},
        "data": {"samples": SAMPLES, "seed": 5},
        "optimizer": {"lr": {"peak": 0.02, "schedule": "poly", "warmup_steps": 2}, "clip_norm": 1.0},
        "placement": {"split_above_bytes": SPLIT_ABOVE_BYTES},
        "stop": {"steps": 4},
        "seed": 11,
    }
    return parse_job({**values, **changes})


class SmallNet(torch.nn.Module):
    """Four tensors: one of 4 blocks that spans shards, one of a single element, a 0-d one, a plain one."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.wide = torch.nn.Parameter(torch.randn(500, FEATURES, generator=draw) * 0.05)
        self.out = torch.nn.Parameter(torch.randn(1, 500, generator=draw) * 0.05)
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(x @ self.wide.T)
        return (hidden @ self.out.T).squeeze(1) * self.scale + self.bias


def small_data() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(SAMPLES, FEATURES, generator=draw)
    return x, torch.sin(x[:, 0] * 2.0)


def slot_loss(model: SmallNet, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((model(x) - y) ** 2).mean()


def train(
    address: str,
    job: Job,
    before_push: Callable[[Any], None] = lambda slot: None,
    until_step: int | None = None,
    overlap: bool = False,
) -> list[Any]:
    """One worker from attach to the end of the job, or to that step; returns its step results."""
    torch.set_num_threads(1)
    model, (x, y) = SmallNet(), small_data()
    results = []
    with sheepfold.attach(model, job=job.name, address=address, config=job, overlap=overlap) as run:
        for slot in run.slots():
            if until_step is not None and slot.step >= until_step:
                break
            indices = torch.from_numpy(np.array(slot.indices))
            slot.backward(slot_loss(model, x[indices], y[indices]))
            before_push(slot)
            results.append(run.step())
    return results


def train_with(address: str, job: Job, workers: int, before_push: Any = lambda slot: None) -> None:
    """Several workers in threads; raises what any of them raised."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            train(address, job, before_push)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, name=f"worker-{i}") for i in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive(), "a worker did not end with the job"
    if errors:
        raise errors[0]


def digest_of(address: str, job: str) -> str:
    """Digest of weights, moments and counters of the job, over all shards."""
    with sheepfold.Client(job, address=address) as client:
        return str(client.digest()[1])


def weights_of(address: str, job: str) -> dict[str, npt.NDArray[Any]]:
    with sheepfold.Client(job, address=address) as client:
        return dict(client.pull())
