"""Torch tensors to parts of a contribution, and pulled parts back into the model."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sheepfold.errors import Refused
from sheepfold.int8 import RowEncoder
from sheepfold.layout import Move, Stretches, part_layouts, presence_bitmap
from sheepfold.model_tensors import TORCH_DTYPES
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.errors import ShapeMismatch
from sheepfold_wire.int8 import row_keys
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.plan import Plan

Flat = Mapping[int, Tensor | None]
"""Flattened tensors by their number in the manifest."""


class Packer:
    """Encodes tensors into one preallocated part for each shard, and copies parts into tensors."""

    def __init__(self, manifest: Manifest, plan: Plan) -> None:
        self._names = [tensor.name for tensor in manifest.tensors]
        self._shapes = [tensor.shape for tensor in manifest.tensors]
        self.layouts = part_layouts(plan)
        self._parts: list[npt.NDArray[np.uint8]] = []
        self._codec: Codec | None = None
        self._encoders: dict[torch.device, RowEncoder] = {}
        """Of int8, by where gradients are."""
        self._recoded: dict[tuple[int, Codec], npt.NDArray[np.uint8]] = {}

    @torch.no_grad()
    def pack(
        self,
        values: Mapping[str, Tensor | None],
        codec: Codec,
        seed: int = 0,
        done: Container[tuple[int, Move]] = (),
    ) -> tuple[memoryview, ...]:
        """The parts of a contribution: gradients by parameter name, current values by buffer name.

        An absent (None) gradient is zeros. Rounds as torch does, to nearest even, and int8 by noise of the
        lease's `seed`. The parts are valid until the next call: the buffers are used again. `done`: moves by
        shard that `pack_moves` has brought there already.
        """
        return self._filled(self._parts_in(codec), values, codec, seed, done)

    @torch.no_grad()
    def pack_moves(
        self, shard: int, moves: Sequence[Move], sources: Mapping[int, Tensor], codec: Codec, seed: int
    ) -> memoryview:
        """Some of a contribution's part, from tensors by their number; returns all of the part."""
        part = self._parts_in(codec)[shard]
        flat = {index: self._flat(index, tensor) for index, tensor in sources.items()}
        self._fill_parameters(moves, self.layouts[shard].stretches(part, codec), flat, codec, seed)
        return part.data

    def _parts_in(self, codec: Codec) -> list[npt.NDArray[np.uint8]]:
        if codec is not self._codec:
            self._parts = [layout.new_part(codec) for layout in self.layouts]
            self._codec = codec
        return self._parts

    @torch.no_grad()
    def pack_weights(self, tensors: Mapping[str, Tensor]) -> tuple[memoryview, ...]:
        """The parts of an init lease: fp32, in buffers of their own."""
        parts = [layout.new_part(Codec.FP32) for layout in self.layouts]
        return self._filled(parts, tensors, Codec.FP32)

    def _filled(
        self,
        parts: list[npt.NDArray[np.uint8]],
        values: Mapping[str, Tensor | None],
        codec: Codec,
        seed: int = 0,
        done: Container[tuple[int, Move]] = (),
    ) -> tuple[memoryview, ...]:
        flat = {index: self._flat(index, values.get(name)) for index, name in enumerate(self._names)}
        for layout, part in zip(self.layouts, parts, strict=True):
            view = layout.stretches(part, codec)
            moves = [move for move in layout.parameters if (layout.shard, move) not in done]
            self._fill_parameters(moves, view, flat, codec, seed)
            _fill(layout.floats, _torch_view(view.floats, Codec.FP32), flat)
            _fill_integers(layout.integers, view.integers, flat)
        return tuple(part.data for part in parts)

    def _fill_parameters(
        self, moves: Sequence[Move], view: Stretches, flat: Flat, codec: Codec, seed: int
    ) -> None:
        if codec is Codec.INT8:
            self._fill_rows(moves, view, [_source(move, flat) for move in moves], seed)
        else:
            _fill(moves, _torch_view(view.parameters, codec), flat)

    def _fill_rows(
        self, moves: Sequence[Move], view: Stretches, sources: Sequence[Tensor | None], seed: int
    ) -> None:
        for move, source in zip(moves, sources, strict=True):
            rows, scales = (torch.from_numpy(array) for array in view.rows_of(move))
            if source is None:
                rows.zero_()
                scales.zero_()
                continue
            if (encoder := self._encoders.get(source.device)) is None:
                encoder = self._encoders[source.device] = RowEncoder(source.device)
            keys = row_keys(seed, move.row, move.rows)
            encoder.encode(source, keys, rows, scales)

    def sums(self, shard: int, part: Buffer) -> tuple[Tensor, npt.NDArray[np.int64]]:
        """Views of an fp32 part, to add others to: all that is a float, and the integers."""
        view = self.layouts[shard].stretches(part, Codec.FP32)
        raw: npt.NDArray[np.uint8] = np.frombuffer(part, np.uint8)
        floats = raw[: view.parameters.nbytes + view.floats.nbytes].view("<f4")
        return torch.from_numpy(floats), view.integers

    @torch.no_grad()
    def recoded(self, shard: int, part: Buffer, codec: Codec, seed: int) -> memoryview:
        """An fp32 part in another codec, int8 by noise of `seed`; valid until the next call for the shard."""
        layout = self.layouts[shard]
        source = layout.stretches(part, Codec.FP32)
        found = self._recoded.setdefault((shard, codec), layout.new_part(codec))
        view, values = layout.stretches(found, codec), _torch_view(source.parameters, Codec.FP32)
        if codec is Codec.INT8:
            sources = [values.narrow(0, move.at, move.count) for move in layout.parameters]
            self._fill_rows(layout.parameters, view, sources, seed)
        else:
            _torch_view(view.parameters, codec).copy_(values)
        view.floats[:], view.integers[:] = source.floats, source.integers
        return found.data

    def presence(self, values: Mapping[str, Tensor | None]) -> bytes:
        """Which tensors contribute: those with a gradient, and every statistic."""
        present = (i for i, name in enumerate(self._names) if values.get(name) is not None)
        return presence_bitmap(len(self._names), present)

    @torch.no_grad()
    def unpack(self, parts: Sequence[Buffer], codec: Codec, into: Mapping[str, Tensor]) -> None:
        """Copies pulled parts into these tensors, in place; raises ShapeMismatch before it writes any."""
        if len(parts) != len(self.layouts):
            raise ShapeMismatch(f"{len(parts)} parts for {len(self.layouts)} shards; attach again")
        views = [layout.stretches(part, codec) for layout, part in zip(self.layouts, parts, strict=True)]
        for layout, view in zip(self.layouts, views, strict=True):
            self._copy(layout.parameters, _torch_view(view.parameters, codec), into)
            self._copy(layout.floats, _torch_view(view.floats, Codec.FP32), into)
            self._copy(layout.integers, torch.from_numpy(view.integers.copy()), into)

    def _copy(self, moves: Sequence[Move], source: Tensor, into: Mapping[str, Tensor]) -> None:
        for move in moves:
            if (tensor := into.get(self._names[move.tensor])) is not None:
                _write(tensor, move, source.narrow(0, move.at, move.count))

    @torch.no_grad()
    def unpack_one(
        self, name: str, part: Callable[[int, int], Buffer | None], codec: Codec, tensor: Tensor
    ) -> bool:
        """One parameter, from parts of which the first bytes have come; False if `part` gives none."""
        for shard, move in self._moves_of[name]:
            found = part(shard, (move.at + move.count) * codec.itemsize)
            if found is None:
                return False
            view = self.layouts[shard].stretches(found, codec)
            _write(tensor, move, _torch_view(view.parameters, codec).narrow(0, move.at, move.count))
        return True

    @cached_property
    def _moves_of(self) -> dict[str, list[tuple[int, Move]]]:
        """Fragments by their tensor, with their shard."""
        found: dict[str, list[tuple[int, Move]]] = {}
        for layout in self.layouts:
            for move in layout.parameters:
                found.setdefault(self._names[move.tensor], []).append((layout.shard, move))
        return found

    def _flat(self, index: int, value: Tensor | None) -> Tensor | None:
        name = self._names[index]
        if value is None:
            return None
        if value.layout is not torch.strided:
            raise Refused(f"{name} has a sparse gradient: build its layer with sparse=False")
        if tuple(value.shape) != self._shapes[index]:
            raise Refused(
                f"{name} has shape {tuple(value.shape)}, the job's is {self._shapes[index]}: "
                "attach the changed model to another job"
            )
        return value.detach().reshape(-1)


def _source(move: Move, flat: Flat) -> Tensor | None:
    """What a move takes; None of an absent tensor."""
    tensor = flat[move.tensor]
    return None if tensor is None else tensor.narrow(0, move.first, move.count)


def _fill(moves: Sequence[Move], out: Tensor, flat: Flat) -> None:
    for move in moves:
        target, source = out.narrow(0, move.at, move.count), _source(move, flat)
        if source is None:
            target.zero_()
        else:
            target.copy_(source)


def _fill_integers(moves: Sequence[Move], out: npt.NDArray[np.int64], flat: Flat) -> None:
    """By numpy: int64 behind fp32 may stand unaligned, which torch does not take."""
    for move in moves:
        counts = flat[move.tensor]
        out[move.at : move.at + move.count] = 0 if counts is None else counts.to("cpu", torch.int64).numpy()


def _torch_view(array: npt.NDArray[Any], codec: Codec) -> Tensor:
    """The elements as torch sees them; a copy only of received bytes that cannot be written to."""
    writable = array if array.flags.writeable else array.copy()
    return torch.from_numpy(writable).view(TORCH_DTYPES[codec])


def _write(tensor: Tensor, move: Move, source: Tensor) -> None:
    """In place, also where the tensor is not contiguous: it is then written as a whole."""
    if tensor.is_contiguous():
        tensor.view(-1).narrow(0, move.first, move.count).copy_(source)
        return
    flat = tensor.reshape(-1)
    flat.narrow(0, move.first, move.count).copy_(source)
    tensor.copy_(flat.view(tensor.shape))
