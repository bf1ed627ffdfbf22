"""Gradients that leave while backward still runs, bucket by bucket.

A bucket is a stretch of a shard's part. Once every gradient in it is there, it is packed in a thread and
pushed ahead in another; `run.step()` then pushes only what is left. It is a matter of time alone: the shard
counts a part once, when it is whole and has the digest that `run.step()` says, and whatever goes wrong ahead
of that is pushed again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

import sheepfold_wire.messages as m
from sheepfold.layout import Move, PartLayout
from sheepfold.packing import Packer
from sheepfold.threads import CallThreads
from sheepfold.transport import Brought, TransportError
from sheepfold.worker import Worker
from sheepfold_wire.codecs import Codec
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
    ranges: tuple[range, ...]
    """Bytes of the part."""

    @property
    def tensors(self) -> frozenset[int]:
        return frozenset(move.tensor for move in self.moves)


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
    gradients: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    """By tensor: `.grad` and how often torch had changed it when it was ready."""
    arrived: list[Bucket] = field(default_factory=list)
    packed: list[Bucket] = field(default_factory=list)
    given_up: set[int] = field(default_factory=set)
    """Shards to which nothing more is pushed ahead."""
    under_way: int = 0
    is_spoiled: bool = False

    def is_as_it_was(self, bucket: Bucket, now: Mapping[int, Tensor | None]) -> bool:
        """Whether its gradients are those that were packed."""
        known = [(tensor, *self.gradients[tensor]) for tensor in bucket.tensors]
        return all(now[tensor] is grad and grad._version == version for tensor, grad, version in known)


class Overlap:
    """The gradients of one model on their way, one slot at a time."""

    def __init__(self, worker: Worker, packer: Packer, parameters: Sequence[Tensor]) -> None:
        """`parameters`: in manifest order, which begins with them."""
        self._worker, self._packer, self._parameters = worker, packer, parameters
        self._buckets: dict[int, list[Bucket]] = {index: [] for index in range(len(parameters))}
        """By each of their tensors."""
        for layout in packer.layouts:
            for bucket in buckets_of(layout, worker.up):
                for tensor in bucket.tensors:
                    self._buckets[tensor].append(bucket)
        self._flight: Flight | None = None
        self._changed = threading.Condition()
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
        """Until nothing is under way; returns what has left, once."""
        flight, self._flight = self._flight, None
        if flight is not None:
            with self._changed:
                while flight.under_way:
                    self._changed.wait(1.0)
        return flight

    def finish(self) -> tuple[frozenset[tuple[int, Move]], Brought]:
        """(packed, brought): fragments by shard that need not be packed again, bytes that need not be pushed.

        Nothing where gradients are not what they were when they left.
        """
        flight = self.settle()
        if flight is None:
            return frozenset(), ()
        now = {tensor: self._parameters[tensor].grad for tensor in flight.gradients}
        if flight.is_spoiled or not all(flight.is_as_it_was(bucket, now) for bucket in flight.packed):
            self.turn_off(
                "gradients change after backward, by another one or by the script (such as clipping)"
            )
            return frozenset(), ()
        packed = frozenset((bucket.shard, move) for bucket in flight.packed for move in bucket.moves)
        arrived = flight.arrived
        return packed, tuple(
            tuple(piece for bucket in arrived if bucket.shard == shard for piece in bucket.ranges)
            for shard in range(len(self._sending))
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
        for threads in (self._packing, *self._sending):
            threads.close(CLOSE_SECONDS)

    # --- from backward's threads and ours ---------------------------------------------------------------

    def _ready(self, tensor: int, parameter: Tensor) -> None:
        """The hook: `.grad` of that parameter is there."""
        flight, grad = self._flight, parameter.grad
        if flight is None or flight.is_spoiled or grad is None:
            return
        with self._changed:
            if tensor in flight.gradients:  # a second time in one slot
                flight.is_spoiled = True
                return
            flight.gradients[tensor] = grad, grad._version
            whole = [b for b in self._buckets[tensor] if b.tensors <= flight.gradients.keys()]
            flight.under_way += len(whole)
        made = torch.cuda.current_stream(grad.device).record_event() if grad.is_cuda else None
        for bucket in whole:
            self._packing.submit(partial(self._pack, flight, bucket, made))

    def _pack(self, flight: Flight, bucket: Bucket, made: torch.cuda.Event | None) -> None:
        """In a stream of its own where gradients are on a GPU: backward goes on in the other."""
        sources = {tensor: flight.gradients[tensor][0] for tensor in bucket.tensors}
        try:
            with self._behind(made, next(iter(sources.values())).device):
                part = self._packer.pack_moves(
                    bucket.shard, bucket.moves, sources, self._worker.up, flight.lease.seed
                )
        except Exception as error:  # step() packs it again, and says what is wrong
            log.debug("job %s: a bucket cannot be packed: %s", self._worker.job.name, error)
            self._over(flight)
            return
        flight.packed.append(bucket)
        self._sending[bucket.shard].submit(partial(self._send, flight, bucket, part))

    def _behind(self, made: torch.cuda.Event | None, device: torch.device) -> AbstractContextManager[object]:
        if made is None:
            return nullcontext()
        stream = self._streams.setdefault(device, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
        stream.wait_event(made)
        return torch.cuda.stream(stream)

    def _send(self, flight: Flight, bucket: Bucket, part: memoryview) -> None:
        """Not tried again: what does not arrive goes with the rest."""
        try:
            if bucket.shard not in flight.given_up and not flight.is_spoiled:
                attempt = flight.lease.attempt
                if self._worker.push_ahead(attempt, bucket.shard, part, bucket.ranges):
                    flight.arrived.append(bucket)
                else:
                    flight.given_up.add(bucket.shard)
        except (SheepfoldError, TransportError) as error:
            log.debug("job %s: nothing more is pushed ahead of this slot: %s", self._worker.job.name, error)
            flight.given_up.add(bucket.shard)
        finally:
            self._over(flight)

    def _over(self, flight: Flight) -> None:
        with self._changed:
            flight.under_way -= 1
            self._changed.notify_all()
