"""Ray actors with our kernel: a server actor, and workers that put gradients into Ray's object store.

The store is shared memory, so that nothing of this goes over a socket; the last pusher of a step makes it.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.bench.step.given import Flat, Given
from tests.bench.step.peers import DTYPES, FlatLamb
from tests.bench.step.system import System
from torch import Tensor

NAMESPACE, SERVER = "sheepfold-bench", "server"
SPARE_BYTES = 256 << 20


def as_stored(flat: Tensor) -> Any:
    """NumPy, which Ray stores without pickling a byte; bf16 by its bits."""
    return (flat.view(torch.int16) if flat.dtype is torch.bfloat16 else flat).numpy()


def as_given(stored: Any, dtype: torch.dtype) -> Tensor:
    """A read-only view of the store: nobody writes to it here, of which torch warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        flat = torch.from_numpy(np.asarray(stored))
    return flat.view(dtype) if dtype is torch.bfloat16 else flat


class RayServer:
    """Concurrent calls, one for each worker: all but the last of a step wait for it."""

    def __init__(self, given: Given, workers: int, codec: str) -> None:
        torch.set_num_threads(1)
        self._given, self._workers, self._dtype = given, workers, DTYPES[codec]
        self._lamb = FlatLamb(given)
        self._ready = threading.Condition()
        self._count, self._version, self._new = 0, 0, None
        self._sum = torch.zeros(given.elements)
        self._weights = torch.zeros(given.elements, dtype=self._dtype)

    def push_pull(self, references: list[Any]) -> list[Any]:
        """A reference to the gradient in, one to the new weights out; in lists, or Ray would resolve them."""
        import ray

        gradient = as_given(ray.get(references[0]), self._dtype)
        with self._ready:
            version = self._version
            if self._count:
                self._sum.add_(gradient)
            else:
                self._sum.copy_(gradient)
            self._count += 1
            if self._count < self._workers:
                self._ready.wait_for(lambda: self._version > version)
            else:
                self._lamb.fill(self._lamb.sum(), self._given.views(self._sum))
                self._lamb.update(1 / self._workers)
                self._lamb.read(self._given.views(self._weights))
                self._new = ray.put(as_stored(self._weights))
                self._count, self._version = 0, version + 1
                self._ready.notify_all()
            return [self._new]


class RayRank:
    """A worker, joined to the cluster as a driver of its own."""

    def __init__(self, given: Given, rank: int, workers: int, address: str, codec: str) -> None:
        import ray

        torch.set_num_threads(1)
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        self._ray, self._given, self._number = ray, given, 0
        self._server, self._dtype = ray.get_actor(SERVER), DTYPES[codec]
        self._noise = given.noise(rank, self._dtype)
        self._weights = torch.from_numpy(given.weights()).to(self._dtype)

    def step(self) -> None:
        reference = self._ray.put(as_stored(self._given.gradient(self._noise, self._number)))
        (new,) = self._ray.get(self._server.push_pull.remote([reference]))
        self._weights.copy_(as_given(self._ray.get(new), self._dtype))
        self._number += 1

    def weights(self) -> Flat:
        return np.asarray(self._weights.float().numpy())

    def close(self) -> None:
        self._ray.shutdown()


class RaySystem(System):
    """A cluster of this machine: Ray's own processes and the server actor count as servers."""

    def __init__(self, label: dict[str, Any], given: Given) -> None:
        import ray

        workers, codec = int(label["workers"]), label["codec"]
        part = given.elements * DTYPES[codec].itemsize
        before = set(children(os.getpid()))
        context = ray.init(
            num_cpus=os.cpu_count(),
            object_store_memory=4 * (workers + 1) * part + SPARE_BYTES,
            include_dashboard=False,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
        )
        self._roots = sorted(set(children(os.getpid())) - before)
        make = ray.remote(RayServer).options(name=SERVER, max_concurrency=workers + 1, num_cpus=1)
        self._server = make.remote(given, workers, codec)
        super().__init__(label, given, RayRank, [context.address_info["address"], codec])

    def server_pids(self) -> list[int]:
        return [*self._roots, *(pid for root in self._roots for pid in descendants(root))]

    def close(self) -> None:
        import ray

        super().close()
        ray.shutdown()


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def descendants(pid: int) -> Sequence[int]:
    found = children(pid)
    return [*found, *(each for child in found for each in descendants(child))]
