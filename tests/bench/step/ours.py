"""sheepfold's own side: real servers, and workers that attach a module of the given shapes."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.bench.step.given import DECAY, EPSILON, RATE, Flat, Given
from tests.bench.step.system import System
from torch import nn

import sheepfold
from sheepfold.result import StepResult
from sheepfold.transport.shared_memory import VARIABLE
from sheepfold_server.shell.supervisor import STAGING_BYTES, Supervisor, UpConfig
from sheepfold_wire.job import Job, parse_job


def job_of(workers: int, codec: str, durability: str, delay: int = 0, name: str = "") -> Job:
    return parse_job(
        {
            "name": name or f"step-delay-{delay}",
            "batch": {"samples": workers, "slot_samples": 1, "delay": delay},
            "data": {"mode": "free"},
            "optimizer": {"lr": {"peak": RATE}, "eps": EPSILON, "weight_decay": DECAY},
            "wire": {"up": codec},
            "numerics": {"kernel": "compiled"},
            "durability": {"level": durability},
            "checkpoint": {"every_minutes": 0},
            "leases": {"seconds": 600.0, "straggler_seconds_min": 600.0},
            "report": {"cosines_every": 0},
            "stop": {"steps": 1_000_000},
        }
    )


class Shaped(nn.Module):
    """The given tensors, over one flat buffer, in the dtype that weights come down in."""

    def __init__(self, given: Given, flat: Flat, dtype: torch.dtype) -> None:
        super().__init__()
        for i, view in enumerate(given.views(torch.from_numpy(flat).to(dtype))):
            self.register_parameter(f"t{i}", nn.Parameter(view))


class SheepfoldRank:
    """A worker that sets `.grad` instead of computing it. It holds the lease of the step that comes next.

    With gradients of 16 bits on the wire the weights come down in as many, as for a model held in bf16.
    """

    def __init__(
        self,
        given: Given,
        rank: int,
        workers: int,
        address: str,
        codec: str,
        level: str,
        transport: str,
        delay: int = 0,
    ) -> None:
        torch.set_num_threads(1)
        os.environ[VARIABLE] = str(int(transport == "shared"))
        dtype = torch.bfloat16 if codec != "fp32" else torch.float32
        self._given, self._noise, self._number = given, given.noise(rank, dtype), 0
        self._model = Shaped(given, given.weights(), dtype)
        self._run = sheepfold.attach(
            self._model, address=address, config=job_of(workers, codec, level, delay), threads=1
        )
        self._result: StepResult | None = None
        self._lease()

    def _lease(self) -> None:
        slot = self._run.next_slot()
        assert slot is not None
        self._rank = slot.lease.slot

    def step(self) -> None:
        gradient = self._given.gradient(self._noise, self._number)
        for parameter, view in zip(self._model.parameters(), self._given.views(gradient), strict=True):
            parameter.grad = view
        result, self._result = self._result, self._run.step(weight=1.0)
        assert result is None or result.counted, result  # of the last step: with delay, asking waits
        self._lease()
        self._number += 1

    def weights(self) -> Flat:
        return np.concatenate([x.detach().float().numpy().reshape(-1) for x in self._model.parameters()])

    def close(self) -> None:
        self._run.close()


@contextmanager
def servers(shards: int, folder: str | None, staging_bytes: int = STAGING_BYTES) -> Iterator[Supervisor]:
    """Servers that run, in a directory of their own."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        directory = Path(made)
        url = str(directory / "checkpoints")
        config = UpConfig(
            directory,
            shard_count=shards,
            port=0,
            dashboard_port=0,
            checkpoint_url=url,
            staging_bytes=staging_bytes,
        )
        supervisor = Supervisor(config, threading.Event(), lambda _: None)
        try:
            supervisor.start()
            yield supervisor
        finally:
            supervisor.stop()


class Sheepfold(System):
    """Servers of its own."""

    def __init__(self, label: dict[str, Any], given: Given, folder: str | None) -> None:
        with ExitStack() as stack:
            room = max(STAGING_BYTES, 4 * given.elements * (label["workers"] + 1))  # all push at a time
            self._supervisor = stack.enter_context(servers(label["shards"], folder, room))
            address = self._supervisor.coordinator.address
            told = [address, label["codec"], label["durability"], label["transport"]]
            super().__init__(label, given, SheepfoldRank, told)
            self._open = stack.pop_all()

    def server_pids(self) -> list[int]:
        return [int(child.pid or 0) for child in (self._supervisor.coordinator, *self._supervisor.shards)]

    def close(self) -> None:
        super().close()
        self._open.close()
