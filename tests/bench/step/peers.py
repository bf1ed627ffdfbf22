"""The same step by what PyTorch brings: all-reduce, reduce and broadcast, torch RPC."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tests.bench.kernel import compiled_kernel
from tests.bench.step.given import DECAY, EPSILON, RATE, Flat, Given
from tests.oracle.public import timm_optimizer
from tests.oracle.settings import optimizer_of
from torch import Tensor

from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.optim.steps import Phase
from sheepfold_wire.manifest import ROW_ELEMENTS, Manifest, TensorSpec
from sheepfold_wire.plan import Plan

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def join_gloo(rank: int, workers: int, meeting: str) -> None:
    """`meeting`: HOST:PORT of rank 0."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://{meeting}", rank=rank, world_size=workers)


class FlatLamb:
    """Our compiled LAMB over one flat buffer: all-reduced where pass 1 reads it, without a fold."""

    def __init__(self, given: Given) -> None:
        shapes = given.shapes
        specs = (TensorSpec(f"t{i}", shape, "float32", "parameter") for i, shape in enumerate(shapes))
        self.plan = Plan.of(Manifest(tuple(specs)), 1)
        settings = optimizer_of(eps=EPSILON, weight_decay=DECAY)
        self._shard = ShardTensors(self.plan, 0, settings, compiled_kernel())
        part = np.zeros((self.plan.rows(0), ROW_ELEMENTS), np.float32)
        self.fill(torch.from_numpy(part), given.views(torch.from_numpy(given.weights())))
        self._shard.load(part.reshape(-1).view(np.uint8).data)
        self._step = 0

    def fill(self, rows: Tensor, given: list[Tensor]) -> None:
        """(rows, 1024) from tensors of the given shapes, each from a row of its own."""
        for view, tensor in zip(self._views(rows), given, strict=True):
            view.copy_(tensor.view(-1))

    def _views(self, rows: Tensor) -> list[Tensor]:
        return [rows[x.first_row :].view(-1)[: x.elements] for x in self.plan.shard_fragments(0)]

    def sum(self) -> Tensor:
        """(rows, 1024) fp32: where the next step's sum belongs."""
        self._shard.begin(self._step)
        return self._shard._steps[self._step].total

    def update(self, scale: float) -> None:
        """One step from the sum times `scale`, which must be a power of two."""
        open_step = self._shard._steps[self._step]
        open_step.phase, open_step.gradient_squares = Phase.MEAN, self._zeros
        self._shard.directions(self._step, RATE, scale)
        self._shard.apply(self._step, RATE)
        self._step += 1

    @property
    def _zeros(self) -> Any:
        return np.zeros(len(self._shard.layout.block_rows))

    def read(self, into: list[Tensor]) -> None:
        for view, tensor in zip(self._views(self.rows()), into, strict=True):
            tensor.view(-1).copy_(view)

    def rows(self) -> Tensor:
        """(rows, 1024): the weights themselves."""
        return self._shard._weights

    def weights(self) -> Flat:
        return np.asarray(torch.cat(self._views(self.rows())).numpy())


class AllReduceOurs:
    """The strongest plain baseline: a packed gradient, all-reduced, and our kernel on every rank."""

    def __init__(self, given: Given, rank: int, workers: int, meeting: str, codec: str) -> None:
        join_gloo(rank, workers, meeting)
        self._given, self._noise, self._workers = given, given.noise(rank, DTYPES[codec]), workers
        self._lamb, self._number = FlatLamb(given), 0
        rows = self._lamb.rows()
        self._wire = None if codec == "fp32" else torch.zeros_like(rows, dtype=DTYPES[codec])

    def step(self) -> None:
        total = self._lamb.sum()
        gradient = self._given.views(self._given.gradient(self._noise, self._number))
        wire = total if self._wire is None else self._wire
        self._lamb.fill(wire, gradient)
        dist.all_reduce(wire)
        if wire is not total:
            total.copy_(wire)
        self._lamb.update(1 / self._workers)
        self._number += 1

    def weights(self) -> Flat:
        return self._lamb.weights()

    def close(self) -> None:
        dist.destroy_process_group()


class AllReduceTimm:
    """As most would write it: the gradients of a flat buffer all-reduced, then timm's Lamb on every rank."""

    def __init__(self, given: Given, rank: int, workers: int, meeting: str, codec: str) -> None:
        join_gloo(rank, workers, meeting)
        self._given, self._noise, self._workers = given, given.noise(rank, DTYPES[codec]), workers
        self._flat, self._number = torch.from_numpy(given.weights()), 0
        self._parameters = [view.requires_grad_() for view in given.views(self._flat)]
        self._gradient = torch.zeros_like(self._flat)
        for parameter, view in zip(self._parameters, given.views(self._gradient), strict=True):
            parameter.grad = view
        self._wire = None if codec == "fp32" else torch.zeros(given.elements, dtype=DTYPES[codec])
        self._optimizer = timm_optimizer("lamb", "Lamb")(
            self._parameters, lr=RATE, eps=EPSILON, weight_decay=DECAY, max_grad_norm=None, always_adapt=True
        )

    def step(self) -> None:
        held = self._gradient
        flat = held if self._wire is None else self._wire
        flat.copy_(self._given.gradient(self._noise, self._number))
        dist.all_reduce(flat)
        if flat is not held:
            held.copy_(flat)
        held.mul_(1 / self._workers)
        self._optimizer.step()
        self._number += 1

    def weights(self) -> Flat:
        return self._flat.detach().numpy().copy()

    def close(self) -> None:
        dist.destroy_process_group()


class ReduceBroadcast:
    """The floor of a parameter server with one server: rank 0 alone steps, with our kernel."""

    def __init__(self, given: Given, rank: int, workers: int, meeting: str, codec: str) -> None:
        join_gloo(rank, workers, meeting)
        self._given, self._workers, self._number = given, workers, 0
        self._noise = given.noise(rank, DTYPES[codec])
        self._lamb = FlatLamb(given) if rank == 0 else None
        self._flat = torch.zeros(given.elements, dtype=DTYPES[codec])
        self._weights = torch.from_numpy(given.weights()).to(DTYPES[codec])

    def step(self) -> None:
        given = self._given
        self._flat.copy_(given.gradient(self._noise, self._number))
        dist.reduce(self._flat, 0)
        if self._lamb is not None:
            self._lamb.fill(self._lamb.sum(), given.views(self._flat))
            self._lamb.update(1 / self._workers)
            self._lamb.read(given.views(self._weights))
        dist.broadcast(self._weights, 0)
        self._number += 1

    def weights(self) -> Flat:
        return np.asarray(self._weights.float().numpy())

    def close(self) -> None:
        dist.destroy_process_group()


class RpcServer:
    """Where torch RPC's workers push to: the last one of a step makes it, the others wait for it."""

    def __init__(self, given: Given, workers: int, dtype: torch.dtype) -> None:
        self._given, self._workers, self._lamb = given, workers, FlatLamb(given)
        self._ready = threading.Condition()
        self._count, self._version = 0, 0
        self._weights = torch.from_numpy(self._lamb.weights()).to(dtype)
        self._sum = torch.zeros(given.elements)

    def push_pull(self, gradient: Tensor) -> Tensor:
        """The sum is added to under the lock: the published example adds outside it and loses gradients."""
        with self._ready:
            version = self._version
            if self._count:
                self._sum.add_(gradient)
            else:
                self._sum.copy_(gradient)
            self._count += 1
            if self._count == self._workers:
                self._lamb.fill(self._lamb.sum(), self._given.views(self._sum))
                self._lamb.update(1 / self._workers)
                self._weights = torch.empty_like(self._weights)  # the old ones may still be on their way
                self._lamb.read(self._given.views(self._weights))
                self._count, self._version = 0, version + 1
                self._ready.notify_all()
            else:
                self._ready.wait_for(lambda: self._version > version)
            return self._weights


_server: RpcServer | None = None


def _serve(given: Given, workers: int, dtype: torch.dtype) -> None:
    global _server
    _server = RpcServer(given, workers, dtype)


def _push_pull(gradient: Tensor) -> Tensor:
    assert _server is not None
    return _server.push_pull(gradient)


class TorchRpc:
    """A client of torch RPC; rank -1 is the server's process."""

    def __init__(self, given: Given, rank: int, workers: int, meeting: str, codec: str) -> None:
        import torch.distributed.rpc as rpc

        torch.set_num_threads(1)
        self._rpc, self._given, self._number = rpc, given, 0
        name = "server" if rank == workers - 1 else f"worker{rank}"
        options = rpc.TensorPipeRpcBackendOptions(
            init_method=f"tcp://{meeting}", num_worker_threads=2 * workers, rpc_timeout=300
        )
        rpc.init_rpc(name, rank=rank, world_size=workers, rpc_backend_options=options)
        self._is_server = name == "server"
        if self._is_server:
            _serve(given, workers - 1, DTYPES[codec])
            return
        self._noise = given.noise(rank, DTYPES[codec])
        self._wire = torch.zeros(given.elements, dtype=DTYPES[codec])
        self._weights = torch.from_numpy(given.weights()).to(DTYPES[codec])

    def step(self) -> None:
        if self._is_server:
            return
        self._wire.copy_(self._given.gradient(self._noise, self._number))
        self._weights.copy_(self._rpc.rpc_sync("server", _push_pull, (self._wire,)))
        self._number += 1

    def weights(self) -> Flat:
        held = self._weights if _server is None else _server._weights
        return np.asarray(held.float().numpy())

    def close(self) -> None:
        self._rpc.shutdown()
