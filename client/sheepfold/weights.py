"""A model's tensors on their way: weights into it, gradients and buffers out of it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from sheepfold.initial import check_shapes, sources
from sheepfold.model_tensors import ModelTensors
from sheepfold.overlap import Overlap
from sheepfold.packing import Packer
from sheepfold.worker import Worker

log = logging.getLogger("sheepfold")

Parts = tuple[memoryview, ...]
"""One for each shard."""


class ModelWeights:
    """One model, and the worker whose parts it is packed into and unpacked from."""

    def __init__(self, worker: Worker, tensors: ModelTensors) -> None:
        self.tensors = tensors
        self._worker = worker
        pins = any(tensor.is_cuda for tensor in tensors.parameters.values())
        self._packer = Packer(worker.manifest, worker.plan, pins)
        self._buffers_at_version: list[Tensor] = []

    def load(self) -> None:
        """What the worker has pulled, if anything is new, is the model's from now on."""
        parts = self._worker.take_weights()
        if parts is not None:
            self._packer.unpack(parts, self._worker.down, self.tensors.all)
            self._buffers_at_version = [buffer.clone() for buffer in self.tensors.buffers.values()]
        self._worker.confirm_weights()

    def restore_buffers(self) -> None:
        """A slot begins with the version's statistics, not with those of the worker's slot before."""
        for buffer, value in zip(self.tensors.buffers.values(), self._buffers_at_version, strict=True):
            buffer.copy_(value)

    def push_first(self) -> None:
        """This worker's weights become version 0; everyone then pulls them, as encoded by the server."""
        self._take_source()
        values = self.tensors.all
        parts, present = self._packer.pack_weights(values), self._packer.presence(values)
        answer = self._worker.push_init(parts, present)
        but = f", but {answer.why}" if answer.why else ""
        log.info("job %s: initial weights uploaded%s", self._worker.job.name, but)

    @torch.no_grad()
    def _take_source(self) -> None:
        """Values from a file or another job, where `init.from` says so."""
        source, job, tensors = self._worker.source("pt"), self._worker.job, self.tensors.all
        if source is None:
            return
        used = sources(tensors, source.keys(), job.init)
        check_shapes(used, source, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        for name, theirs in used.items():
            tensors[name].copy_(torch.as_tensor(source[theirs]))
        log.info("job %s: %d of %d tensors from %s", job.name, len(used), len(tensors), job.init.source)

    @property
    def has_gradient(self) -> bool:
        return any(parameter.grad is not None for parameter in self.tensors.parameters.values())

    def overlap(self) -> Overlap:
        """Has gradients leave for this model's parts before `contribution` is asked for."""
        return Overlap(self._worker, self._packer, list(self.tensors.parameters.values()))

    def contribution(self, seed: int) -> tuple[Parts, bytes]:
        """(parts, presence bitmap) of gradients and buffers; the parts are valid until the next call.

        `seed`: the lease's, which int8 rounds by.
        """
        gradients = {name: parameter.grad for name, parameter in self.tensors.parameters.items()}
        values = {**gradients, **self.tensors.buffers}
        parts = self._packer.pack(values, self._worker.up, seed, self._worker.room)
        return parts, self._packer.presence(values)

    def clear_gradients(self) -> None:
        for parameter in self.tensors.parameters.values():
            parameter.grad = None
