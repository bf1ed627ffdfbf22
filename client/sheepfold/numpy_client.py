"""A worker or reader with NumPy alone: for services that read weights, and frameworks other than torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

import sheepfold_wire.messages as m
from sheepfold.errors import JobEnded, Refused
from sheepfold.events import Ready
from sheepfold.initial import check_shapes, sources
from sheepfold.joining import Config, Joining
from sheepfold.layout import PartLayout, part_layouts, presence_bitmap
from sheepfold.transport import Transport
from sheepfold.worker import Worker, join
from sheepfold_wire.codecs import Buffer, Codec, decode, encode
from sheepfold_wire.int8 import encode_rows, row_keys
from sheepfold_wire.manifest import Manifest, ManifestError, TensorSpec

Array = npt.NDArray[Any]


class Client:
    """One place in a job. `weights` holds the arrays pulled last, by name; use it as a context manager."""

    def __init__(
        self,
        job: str | None = None,
        parameters: Mapping[str, Array] | None = None,
        *,
        statistics: Mapping[str, Array] | None = None,
        address: str | Transport | None = None,
        config: Config | None = None,
        data_samples: int = 0,
        data_fingerprint: str = "",
    ) -> None:
        """With `parameters`, their initial values (fp32 or fp16), a worker; without, a reader.

        Raises Refused, ServerUnavailable, JobEnded, BadAddress, TransportMissing.
        """
        manifest = None if parameters is None else manifest_of(parameters, statistics or {})
        self._worker = join(
            Joining(
                job, address, config, manifest, data_samples=data_samples, data_fingerprint=data_fingerprint
            )
        )
        self._initial = {**(parameters or {}), **(statistics or {})}
        self._is_reader = manifest is None
        self._layouts = part_layouts(self._worker.plan)
        self._lease: m.Lease | None = None
        self.weights: dict[str, Array] = {}

    @property
    def manifest(self) -> Manifest:
        return self._worker.manifest

    @property
    def worker(self) -> Worker:
        return self._worker

    @property
    def job(self) -> str:
        return self._worker.job.name

    @property
    def version(self) -> int:
        """Committed steps in `weights`; -1 before the first pull."""
        return self._worker.version

    def pull(self, version: int | None = None) -> dict[str, Array]:
        """`weights` of a version, by default the newest; waits for the job's first one."""
        self._worker.pull(version)
        self._load()
        return self.weights

    def lease(self) -> m.Lease | None:
        """The next lease, with `weights` at its version; None once the job has ended. Refused to a reader."""
        if self._is_reader:
            raise Refused("this client is a reader: give parameters=... to take part in the job")
        try:
            lease = self._worker.next_lease()
            while lease.is_init:
                parts, present = self._packed(self._first_values(), Codec.FP32)
                self._worker.push_init(parts, present)
                lease = self._worker.next_lease()
        except JobEnded:
            return None
        self._load()
        self._lease = lease
        return lease

    def push(
        self,
        gradients: Mapping[str, Array],
        samples: int | None = None,
        weight: float | None = None,
        loss: float | None = None,
    ) -> bool:
        """Contribute mean gradients to the lease held, and statistics by name; what is left out is absent.

        `samples`: by default the lease's; `weight`: by default `samples`. Returns whether it counts, which it
        does not if the lease was lost meanwhile. Raises Refused.
        """
        lease = self._lease
        if lease is None:
            raise Refused("no lease is held: call lease() before each push()")
        if weight is None and self._worker.job.batch.weight == "tokens":
            raise Refused('batch.weight = "tokens": give push(..., weight=...), the tokens behind the mean')
        counted = lease.sample_count if samples is None else samples
        values = {**{name: self.weights[name] for name in self._statistic_names()}, **gradients}
        parts, present = self._packed(values, self._worker.up, lease.seed)
        facts = m.Facts(counted, float(counted) if weight is None else weight, self.version, present, loss)
        self._lease = None
        answer = self._worker.push(parts, facts)
        return isinstance(answer, Ready) and answer.is_counted

    def digest(self) -> tuple[int, str]:
        """(version, SHA-256 hex) of the job's whole state, equal for equal states on any number of shards."""
        return self._worker.digest()

    def close(self) -> None:
        """Hand leases back and leave the job. May be repeated."""
        self._worker.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- arrays and parts ---------------------------------------------------------------------------

    def _first_values(self) -> dict[str, Array]:
        """Version 0: the arrays given, or those that `init.from` names."""
        source = self._worker.source("np")
        if source is None:
            return dict(self._initial)
        used = sources(self._initial, source.keys(), self._worker.job.init)
        check_shapes(used, source, {name: array.shape for name, array in self._initial.items()})
        return {**self._initial, **{name: np.asarray(source[theirs]) for name, theirs in used.items()}}

    def _statistic_names(self) -> Iterator[str]:
        return (self.manifest.tensors[index].name for index in self.manifest.statistics)

    def _packed(
        self, values: Mapping[str, Array], codec: Codec, seed: int = 0
    ) -> tuple[tuple[Buffer, ...], bytes]:
        """(parts, presence bitmap); raises Refused for a name or shape that is not the job's."""
        tensors = self.manifest.tensors
        if unknown := sorted(values.keys() - {tensor.name for tensor in tensors}):
            raise Refused(
                f"{unknown[0]} is no tensor of job {self.job}; client.manifest lists {len(tensors)}"
            )
        flat = [_flat(tensor, values.get(tensor.name)) for tensor in tensors]
        present = presence_bitmap(len(tensors), (i for i, value in enumerate(flat) if value is not None))
        return tuple(pack_part(layout, flat, codec, seed) for layout in self._layouts), present

    def _load(self) -> None:
        parts = self._worker.take_weights()
        if parts is not None:
            self.weights = unpack_parts(self._layouts, parts, self._worker.down)
        self._worker.confirm_weights()


def manifest_of(parameters: Mapping[str, Array], statistics: Mapping[str, Array]) -> Manifest:
    """Raises Refused, naming the array and the remedy."""
    for name, array in parameters.items():
        if array.dtype == np.float64:
            raise Refused(f"{name} is float64, the server's state is fp32: give {name}.astype(np.float32)")
    try:
        specs = [TensorSpec(n, a.shape, a.dtype.name, "parameter") for n, a in parameters.items()]
        return Manifest(
            (*specs, *(TensorSpec(n, a.shape, a.dtype.name, "statistic") for n, a in statistics.items()))
        )
    except ManifestError as error:
        raise Refused(str(error)) from None


def _flat(tensor: TensorSpec, value: Array | None) -> Array | None:
    if value is None:
        return None
    if value.shape != tensor.shape:
        raise Refused(f"{tensor.name} has shape {value.shape}, the job's is {tensor.shape}")
    return np.ascontiguousarray(value, np.int64 if tensor.is_integer else np.float32).reshape(-1)


def pack_part(layout: PartLayout, flat: Sequence[Array | None], codec: Codec, seed: int = 0) -> Buffer:
    """One shard's part of flattened tensors, by manifest index; None is absent and stays zero.

    `seed`: the lease's, of the noise of int8.
    """
    part = layout.new_part(codec)
    view = layout.stretches(part, codec)
    for move in layout.parameters:
        if (source := flat[move.tensor]) is None:
            continue
        values = source[move.first : move.first + move.count]
        if codec is Codec.INT8:
            encode_rows(values, row_keys(seed, move.row, move.rows), *view.rows_of(move))
        else:
            encode(codec, values, view.parameters[move.at : move.at + move.count])
    for moves, out in ((layout.floats, view.floats), (layout.integers, view.integers)):
        for move in moves:
            if (source := flat[move.tensor]) is not None:
                out[move.at : move.at + move.count] = source
    return part.data


def unpack_parts(layouts: Sequence[PartLayout], parts: Sequence[Buffer], codec: Codec) -> dict[str, Array]:
    """New arrays by name: parameters and float statistics as fp32, integer statistics in their own dtype."""
    tensors = layouts[0].plan.manifest.tensors
    arrays = [np.empty(t.elements, t.dtype if t.is_integer else np.float32) for t in tensors]
    for layout, part in zip(layouts, parts, strict=True):
        view = layout.stretches(part, codec)
        for move in layout.parameters:
            encoded = view.parameters[move.at : move.at + move.count]
            decode(codec, encoded, arrays[move.tensor][move.first : move.first + move.count])
        for moves, source in ((layout.floats, view.floats), (layout.integers, view.integers)):
            for move in moves:
                arrays[move.tensor][:] = source[move.at : move.at + move.count]
    return {tensor.name: array.reshape(tensor.shape) for tensor, array in zip(tensors, arrays, strict=True)}
