"""Gradients that leave while backward still runs, bucket by bucket.

A bucket is a stretch of a shard's part. Once every gradient in it is there, it is packed in a thread and
pushed ahead in another. `run.step()` packs all of the contribution as ever, and compares: only where the
bytes that have left are those of the contribution need they not be pushed again. So it is a matter of time
alone, whatever a script does to its gradients after backward.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
import xxhash
from torch import Tensor

import sheepfold_wire.messages as m
from sheepfold.layout import Move, PartLayout
from sheepfold.packing import Packer
from sheepfold.threads import CallThreads
from sheepfold.transport import Brought, Ranges, TransportError
from sheepfold.worker import Worker
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.errors import SheepfoldError

log = logging.getLogger("sheepfold")

BUCKET_BYTES = 4 << 20
"""Of a part, at least: less would cost more in calls than it hides."""
CLOSE_SECONDS = 1.0


@dataclass(frozen=True)
class Bucket:
    """Consecutive fragments of one shard's part that leave together."""

    shard: int
    moves: tuple[Move, ...]
    ranges: Ranges
    """Bytes of the part."""

    @property
    def tensors(self) -> frozenset[int]:
        return frozenset(move.tensor for move in self.moves)

    def digest(self, part: Buffer) -> int:
        """XXH3-64 of its bytes in a part."""
        found, view = xxhash.xxh3_64(), memoryview(part)
        for piece in self.ranges:
            found.update(view[piece.start : piece.stop])
        return found.intdigest()


def buckets_of(layout: PartLayout, codec: Codec) -> Iterator[Bucket]:
    """From the last fragment on, as backward goes; the first bucket takes what is left over."""
    taken: list[Move] = []
    for move in (*reversed(layout.parameters), None):
        if taken and (move is None or _bytes(taken, codec) >= BUCKET_BYTES):
            moves = tuple(reversed(taken))
            yield Bucket(layout.shard, moves, layout.ranges(moves, codec))
            taken = []
        taken += [] if move is None else [move]


def _bytes(moves: Sequence[Move], codec: Codec) -> int:
    return sum(move.count for move in moves) * codec.itemsize


@dataclass
class Flight:
    """What is leaving of one slot's gradient."""

    lease: m.Lease
    gradients: dict[int, Tensor] = field(default_factory=dict)
    """By tensor, once they are there."""
    arrived: list[tuple[Bucket, int]] = field(default_factory=list)
    """With the digest of the bytes that have left."""
    given_up: set[int] = field(default_factory=set)
    """Shards to which nothing more is pushed ahead."""
    is_spoiled: bool = False


class Overlap:
    """The gradients of one model on their way, one slot at a time."""

    def __init__(self, worker: Worker, packer: Packer, parameters: Sequence[Tensor]) -> None:
        """`parameters`: in manifest order, which begins with them."""
        self._worker, self._packer = worker, packer
        self._buckets: dict[int, list[Bucket]] = {index: [] for index in range(len(parameters))}
        """By each of their tensors."""
        for layout in packer.layouts:
            for bucket in buckets_of(layout, worker.up):
                for tensor in bucket.tensors:
                    self._buckets[tensor].append(bucket)
        self._flight: Flight | None = None
        self._lock = threading.Lock()
        self._packing = CallThreads(threads_max=1)
        self._sending = [CallThreads(threads_max=1) for _ in packer.layouts]
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._ready, index))  # type: ignore[no-untyped-call]
            for index, parameter in enumerate(parameters)
        ]
        if why := worker.against_overlap:
            self.turn_off(why)

    # --- from the script's thread -----------------------------------------------------------------------

    def begin(self, lease: m.Lease) -> None:
        """The one backward of a slot comes now."""
        self.settle()
        if self._hooks:
            self._packer.prepare(self._worker.up, self._worker.room)
            self._flight = Flight(lease)

    def spoil(self) -> None:
        """It was not the only one: what has left is of no use."""
        if self._flight is not None:
            self._flight.is_spoiled = True

    def settle(self) -> Flight | None:
        """Until nothing is under way, so that parts may be packed again; returns what has left, once."""
        self._packing.settle()
        for threads in self._sending:
            threads.settle()
        flight, self._flight = self._flight, None
        return flight

    def brought(self, flight: Flight | None, lease: m.Lease, parts: Sequence[Buffer]) -> Brought:
        """What of this contribution its shards hold already. `flight`: what `settle` returned.

        All of what has left for a shard, or nothing: it holds that as one.
        """
        if flight is None or flight.lease.attempt != lease.attempt:
            return ()
        changed = {b.shard for b, digest in flight.arrived if b.digest(parts[b.shard]) != digest}
        if flight.is_spoiled or changed:
            self.turn_off("gradients change after backward, by another one or the script (such as clipping)")
        if flight.is_spoiled:
            return ()
        kept = [bucket for bucket, _ in flight.arrived if bucket.shard not in changed]
        return tuple(
            tuple(piece for bucket in kept if bucket.shard == shard for piece in bucket.ranges)
            for shard in range(len(parts))
        )

    def turn_off(self, why: str) -> None:
        """For good: what happens in one slot happens in all."""
        log.warning("job %s: overlap=True has no effect: %s", self._worker.job.name, why)
        self._forget_hooks()

    def _forget_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def close(self) -> None:
        """May be repeated."""
        self._forget_hooks()
        self.spoil()
        for threads in (self._packing, *self._sending):
            threads.close(CLOSE_SECONDS)

    # --- from backward's threads and ours ---------------------------------------------------------------

    def _ready(self, tensor: int, parameter: Tensor) -> None:
        """The hook: `.grad` of that parameter is there."""
        flight, grad = self._flight, parameter.grad
        if flight is None or flight.is_spoiled or grad is None:
            return
        with self._lock:
            if tensor in flight.gradients:  # a second time in one slot
                flight.is_spoiled = True
                return
            flight.gradients[tensor] = grad
            whole = [b for b in self._buckets[tensor] if b.tensors <= flight.gradients.keys()]
        made = torch.cuda.current_stream(grad.device).record_event() if grad.is_cuda else None
        for bucket in whole:
            self._packing.submit(partial(self._pack, flight, bucket, made))

    def _pack(self, flight: Flight, bucket: Bucket, made: torch.cuda.Event | None) -> None:
        """In a stream of its own where gradients are on a GPU: backward goes on in the other.

        A gradient that is still being written by a third one is packed half; the digest shows it.
        """
        sources = {tensor: flight.gradients[tensor] for tensor in bucket.tensors}
        try:
            with self._behind(made, next(iter(sources.values())).device):
                seed = flight.lease.seed
                part = self._packer.pack_moves(bucket.shard, bucket.moves, sources, self._worker.up, seed)
            digest = bucket.digest(part)
            self._sending[bucket.shard].submit(partial(self._send, flight, bucket, part, digest))
        except Exception as error:  # step() packs it again, and says what is wrong
            log.debug("job %s: a bucket cannot be packed: %s", self._worker.job.name, error)

    def _behind(self, made: torch.cuda.Event | None, device: torch.device) -> AbstractContextManager[object]:
        if made is None:
            return nullcontext()
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._streams[device].wait_event(made)
        return torch.cuda.stream(self._streams[device])

    def _send(self, flight: Flight, bucket: Bucket, part: memoryview, digest: int) -> None:
        """Not tried again: what does not arrive goes with the rest."""
        if bucket.shard in flight.given_up or flight.is_spoiled:
            return
        flight.given_up.add(bucket.shard)
        try:
            if self._worker.push_ahead(flight.lease.attempt, bucket.shard, part, bucket.ranges):
                flight.arrived.append((bucket, digest))
                flight.given_up.remove(bucket.shard)
        except (SheepfoldError, TransportError) as error:
            log.debug("job %s: nothing more is pushed ahead of this slot: %s", self._worker.job.name, error)
        except Exception:
            log.exception("job %s: nothing more is pushed ahead of this slot", self._worker.job.name)
