"""Torch tensors to parts of a contribution, and pulled parts back into the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sheepfold.errors import Refused
from sheepfold.int8 import RowEncoder
from sheepfold.layout import Move, PartLayout, part_layouts, presence_bitmap
from sheepfold.mirror import Mirror, is_far, new_pinned_part
from sheepfold.model_tensors import TORCH_DTYPES
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.errors import ShapeMismatch
from sheepfold_wire.int8 import row_keys
from sheepfold_wire.manifest import ROW_ELEMENTS, Manifest
from sheepfold_wire.plan import Plan

Room = Callable[[int, int], memoryview | None]
"""Memory for a shard's part, of so many bytes; None: the packer's own."""


def no_room(shard: int, size: int) -> None:
    return None


Flat = Mapping[int, Tensor | None]
"""Flattened tensors by their number in the manifest."""


class Packer:
    """Encodes tensors into one preallocated part for each shard, and copies parts into tensors.

    Tensors of an accelerator are encoded there, into a mirror of the part: one copy brings all of them to the
    host, or a received part to the accelerator, and packing waits for the device once.
    """

    def __init__(self, manifest: Manifest, plan: Plan, pins: bool = False) -> None:
        """`pins`: parts lie in memory that CUDA copies to by itself."""
        self._pins = pins
        self._names = [tensor.name for tensor in manifest.tensors]
        self._shapes = [tensor.shape for tensor in manifest.tensors]
        self.layouts = part_layouts(plan)
        self._parts: list[memoryview] = []
        self._codec: Codec | None = None
        self._encoders: dict[torch.device, RowEncoder] = {}
        """Of int8, by where gradients are."""
        self._recoded: dict[tuple[int, Codec], npt.NDArray[np.uint8]] = {}
        self._mirrors: dict[tuple[str, int, Codec, torch.device], Mirror] = {}
        """By direction, shard, codec and device: what is packed and what is unpacked do not meet."""

    # --- tensors to parts -------------------------------------------------------------------------------

    @torch.no_grad()
    def pack(
        self,
        values: Mapping[str, Tensor | None],
        codec: Codec,
        seed: int = 0,
        room: Room = no_room,
    ) -> tuple[memoryview, ...]:
        """The parts of a contribution: gradients by parameter name, current values by buffer name.

        An absent (None) gradient is zeros. Rounds as torch does, to nearest even, and int8 by noise of the
        lease's `seed`. The parts are valid until the next call: the buffers are used again. They are in
        `room` where there is some.
        """
        self.prepare(codec, room)
        self._filled(self._parts, values, codec, seed)
        return tuple(self._parts)

    def prepare(self, codec: Codec, room: Room = no_room) -> None:
        """Decide where the next parts are packed: in `room` where there is some, else where the last were."""
        if codec is not self._codec:
            self._parts, self._codec = [], codec
        held: list[memoryview | None] = [*self._parts] or [None] * len(self.layouts)
        self._parts = [
            self._buffer(layout, codec, part, room) for layout, part in zip(self.layouts, held, strict=True)
        ]

    @torch.no_grad()
    def pack_moves(
        self, shard: int, moves: Sequence[Move], sources: Mapping[int, Tensor], codec: Codec, seed: int
    ) -> memoryview:
        """Some of a contribution's part, from tensors by their number; returns all of the part."""
        part = self._parts[shard]
        flat = {index: self._flat(index, tensor) for index, tensor in sources.items()}
        for mirror in self._fill(shard, part, moves, (), flat, codec, seed):
            mirror.settle()
        return part

    def _buffer(self, layout: PartLayout, codec: Codec, held: memoryview | None, room: Room) -> memoryview:
        """Where a part is packed: its padding is zero, as in what the last one was packed into."""
        given = room(layout.shard, layout.part_bytes(codec))
        if given is None and held is not None:
            return held
        if given is None:
            return (layout.new_part(codec, new_pinned_part) if self._pins else layout.new_part(codec)).data
        if held is None or given.obj is not held.obj:
            np.frombuffer(given, np.uint8)[:] = 0
        return given

    @torch.no_grad()
    def pack_weights(self, tensors: Mapping[str, Tensor]) -> tuple[memoryview, ...]:
        """The parts of an init lease: fp32, in buffers of their own."""
        parts = [layout.new_part(Codec.FP32).data for layout in self.layouts]
        self._filled(parts, tensors, Codec.FP32)
        return tuple(parts)

    def _filled(
        self,
        parts: Sequence[memoryview],
        values: Mapping[str, Tensor | None],
        codec: Codec,
        seed: int = 0,
    ) -> None:
        flat = {index: self._flat(index, values.get(name)) for index, name in enumerate(self._names)}
        mirrors: list[Mirror] = []
        for layout, part in zip(self.layouts, parts, strict=True):
            mirrors += self._fill(layout.shard, part, layout.parameters, layout.floats, flat, codec, seed)
            _fill_integers(layout.integers, layout.stretches(part, codec).integers, flat)
        for mirror in mirrors:
            mirror.settle()

    def _fill(
        self,
        shard: int,
        part: memoryview,
        moves: Sequence[Move],
        floats: Sequence[Move],
        flat: Flat,
        codec: Codec,
        seed: int,
    ) -> list[Mirror]:
        """Encodes where the tensors are; returns the mirrors from which the part is being copied."""
        mirrors = []
        layout = self.layouts[shard]
        own, statistics = _by_device(moves, flat), _by_device(floats, flat)
        for device in own.keys() | statistics.keys():
            due, also = own.get(device, []), statistics.get(device, [])
            mirror = self._mirror("up", shard, codec, device)
            raw = _bytes_of(part) if mirror is None else mirror.bytes
            values, scales, counts = self._stretches(shard, raw, codec)
            if codec is Codec.INT8:
                self._fill_rows(due, values, scales, flat, seed)
            else:
                _fill(due, values, flat)
            _fill(also, counts, flat)
            if mirror is not None:
                mirror.download(part, (*layout.runs(due, codec), *layout.float_runs(also, codec)))
                mirrors.append(mirror)
        return mirrors

    def _mirror(self, way: str, shard: int, codec: Codec, device: torch.device | None) -> Mirror | None:
        """None for the host."""
        if device is None or not is_far(device):
            return None
        key = (way, shard, codec, device)
        if key not in self._mirrors:
            self._mirrors[key] = Mirror(self.layouts[shard].part_bytes(codec), device)
        return self._mirrors[key]

    def _stretches(self, shard: int, raw: Tensor, codec: Codec) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters, scales and float statistics of a part's bytes, on whatever device."""
        scales_at, floats_at, integers_at = self.layouts[shard].offsets(codec)
        dtype = torch.int8 if codec is Codec.INT8 else TORCH_DTYPES[codec]
        return (
            raw[:scales_at].view(dtype),
            raw[scales_at:floats_at].view(torch.float32),
            raw[floats_at:integers_at].view(torch.float32),
        )

    def _fill_rows(
        self, moves: Sequence[Move], values: Tensor, scales: Tensor, flat: Flat, seed: int
    ) -> None:
        for move in moves:
            first = move.at // ROW_ELEMENTS
            rows, own = (
                values.narrow(0, move.at, move.rows * ROW_ELEMENTS),
                scales.narrow(0, first, move.rows),
            )
            source = _source(move, flat)
            if source is None:
                rows.zero_()
                own.zero_()
                continue
            if (encoder := self._encoders.get(source.device)) is None:
                encoder = self._encoders[source.device] = RowEncoder(source.device)
            encoder.encode(source, row_keys(seed, move.row, move.rows), rows, own)

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
        values = torch.from_numpy(source.parameters)
        whole, scales, _ = self._stretches(shard, torch.from_numpy(found), codec)
        if codec is Codec.INT8:
            moves = [replace(move, tensor=at, first=0) for at, move in enumerate(layout.parameters)]
            flat = {at: values.narrow(0, move.at, move.count) for at, move in enumerate(layout.parameters)}
            self._fill_rows(moves, whole, scales, flat, seed)
        else:
            whole.copy_(values)
        view = layout.stretches(found, codec)
        view.floats[:], view.integers[:] = source.floats, source.integers
        return found.data

    def presence(self, values: Mapping[str, Tensor | None]) -> bytes:
        """Which tensors contribute: those with a gradient, and every statistic."""
        present = (i for i, name in enumerate(self._names) if values.get(name) is not None)
        return presence_bitmap(len(self._names), present)

    # --- parts to tensors -------------------------------------------------------------------------------

    @torch.no_grad()
    def unpack(self, parts: Sequence[Buffer], codec: Codec, into: Mapping[str, Tensor]) -> None:
        """Copies pulled parts into these tensors, in place; raises ShapeMismatch before it writes any."""
        if len(parts) != len(self.layouts):
            raise ShapeMismatch(f"{len(parts)} parts for {len(self.layouts)} shards; attach again")
        views = [layout.stretches(part, codec) for layout, part in zip(self.layouts, parts, strict=True)]
        for layout, part, view in zip(self.layouts, parts, views, strict=True):
            self._copy(layout.shard, part, codec, layout.parameters, layout.floats, into)
            for move in layout.integers:
                if (tensor := into.get(self._names[move.tensor])) is not None:
                    own = view.integers[move.at : move.at + move.count].copy()
                    _write(tensor, move, torch.from_numpy(own))

    def _copy(
        self,
        shard: int,
        part: Buffer,
        codec: Codec,
        moves: Sequence[Move],
        floats: Sequence[Move],
        into: Mapping[str, Tensor],
    ) -> None:
        layout, targets = self.layouts[shard], dict(enumerate(into.get(name) for name in self._names))
        own, statistics = _by_device(moves, targets), _by_device(floats, targets)
        for device in (own.keys() | statistics.keys()) - {None}:
            due, also = own.get(device, []), statistics.get(device, [])
            mirror = self._mirror("down", shard, codec, device)
            if mirror is not None:
                mirror.upload(part, (*layout.runs(due, codec), *layout.float_runs(also, codec)))
            raw = _bytes_of(part) if mirror is None else mirror.bytes
            values, _, counts = self._stretches(shard, raw, codec)
            for move, source in (*((move, values) for move in due), *((move, counts) for move in also)):
                target = targets[move.tensor]
                assert target is not None  # those are by no device
                _write(target, move, source.narrow(0, move.at, move.count))

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


def _by_device(moves: Sequence[Move], tensors: Flat) -> dict[torch.device | None, list[Move]]:
    """Moves by the device of their tensor; None of an absent one."""
    found: dict[torch.device | None, list[Move]] = {}
    for move in moves:
        tensor = tensors[move.tensor]
        found.setdefault(None if tensor is None else tensor.device, []).append(move)
    return found


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
    """By numpy: int64 behind fp32 may stand unaligned, which torch does not take. One copy by device."""
    for there in _by_device(moves, flat).values():
        counts = [tensor.to(torch.int64) for move in there if (tensor := flat[move.tensor]) is not None]
        at, found = 0, torch.cat(counts).cpu().numpy() if counts else None
        for move in there:
            out[move.at : move.at + move.count] = 0 if found is None else found[at : at + move.count]
            at += move.count


def _bytes_of(part: Buffer) -> Tensor:
    """As torch sees them; a copy only of received bytes that cannot be written to."""
    array: npt.NDArray[np.uint8] = np.frombuffer(part, np.uint8)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _write(tensor: Tensor, move: Move, source: Tensor) -> None:
    """In place, also where the tensor is not contiguous: it is then written as a whole."""
    if tensor.is_contiguous():
        tensor.view(-1).narrow(0, move.first, move.count).copy_(source)
        return
    flat = tensor.reshape(-1)
    flat.narrow(0, move.first, move.count).copy_(source)
    tensor.copy_(flat.view(tensor.shape))
