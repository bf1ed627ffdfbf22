"""How a slot's samples reach the script: loaders that follow the leases, and what they load ahead.

Only the training process leases. A DataLoader's processes are asked for the micro-batches of the slot leased,
then for those of the slots that probably come next; a wrong guess is loaded in vain and dropped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import sheepfold_wire.messages as m
from sheepfold.errors import Refused
from sheepfold.fingerprint import data_fingerprint
from sheepfold.read_ahead import ReadAhead
from sheepfold_wire.job import Job
from sheepfold_wire.samples import stream_indices

_END = object()


class MicroBatch(NamedTuple):
    """Positions [start, start + samples) of the job's sample stream."""

    start: int
    samples: int


class SlotSampler:
    """A `batch_sampler` for a DataLoader: micro-batches of the slots that are leased, or probably will be.

    It never ends; the loop over `run.slots(loader)` does.
    """

    def __init__(self, job: Job, micro_batch: int) -> None:
        """Raises Refused unless the job's data are indexed and `micro_batch` divides its slots."""
        if job.data.mode != "indexed":
            raise Refused(
                f'data.mode = "{job.data.mode}": leases name no samples to choose',
                field="data.mode",
                expected="indexed",
                got=job.data.mode,
                remedy="give run.slots() your own loader",
            )
        sizes = sorted({job.batch.slot_samples, *(s.slot_samples or 0 for s in job.batch.stage)} - {0})
        for size in sizes:
            _check_divides(size, micro_batch, "micro_batch")
        self.micro_batch = micro_batch
        self.dropped = 0
        """Micro-batches loaded in vain."""
        self._data = job.data
        self._due: deque[MicroBatch] = deque()
        """Of the slot leased, not asked for yet."""
        self._asked: deque[MicroBatch] = deque()
        """Asked for, in the order in which the loader will hand them over."""
        self._guess = MicroBatch(0, 0)
        """What of the guessed slot is not asked for yet."""
        self._stride = self._slot_samples = 0
        self._lock = threading.Lock()
        """Leases come from the script's thread, the loader may ask from another."""

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of one micro-batch at a time; a new pass forgets what the last one was asked."""
        self._asked.clear()
        while True:
            with self._lock:
                batch = self._next()
                self._asked.append(batch)
            yield [int(i) for i in stream_indices(self._data.samples, self._data.seed, *batch)]

    def _next(self) -> MicroBatch:
        if self._due:
            return self._due.popleft()
        if not self._guess.samples:
            following = self._guess.start - self._slot_samples + (self._stride or self._slot_samples)
            self._guess = MicroBatch(max(0, following), self._slot_samples)
        start, count = self._guess
        self._guess = MicroBatch(start + self.micro_batch, count - self.micro_batch)
        return MicroBatch(start, self.micro_batch)

    def lease(self, lease: m.Lease) -> tuple[MicroBatch, ...]:
        """A slot begins: its micro-batches, which `take` hands over in this order."""
        size = self.micro_batch
        starts = range(lease.sample_start, lease.sample_start + lease.sample_count, size)
        slot = tuple(MicroBatch(start, size) for start in starts)
        with self._lock:
            self._stride, self._slot_samples = lease.stride, lease.sample_count
            if slot[0] not in self._asked:  # a wrong guess, or the first slot: begin to guess from here
                self._due = deque(slot)
                self._guess = MicroBatch(lease.sample_start + lease.sample_count, 0)
        return slot

    def take(self, wanted: MicroBatch, loaded: Iterator[Any]) -> Any:
        """What the loader made of this micro-batch; drops what it made of wrong guesses before."""
        while True:
            batch = next(loaded, _END)  # may ask for more on the way
            if batch is _END or not self._asked:
                raise Refused(
                    "the loader does not follow run.batch_sampler", remedy="give it to one loader only"
                )
            if self._asked.popleft() == wanted:
                return batch
            self.dropped += 1


class Feed(Protocol):
    """Where a slot's micro-batches come from."""

    plans_ahead: bool
    wait_seconds: float
    """Time the script spent waiting for data."""

    def batches(self, lease: m.Lease, is_full: Callable[[], bool]) -> Iterator[Any]:
        """Micro-batches of one slot. `is_full`: whether what was computed so far fills it."""

    def close(self) -> None:
        """Nothing more is loaded. May be repeated."""


class IndexedFeed:
    """A DataLoader around `run.batch_sampler`; with processes of its own it is also read ahead."""

    plans_ahead = True

    def __init__(self, loader: Iterable[Any], sampler: SlotSampler) -> None:
        self._loader, self._sampler = loader, sampler
        self._loaded: Iterator[Any] | None = None
        self.wait_seconds = 0.0

    def batches(self, lease: m.Lease, is_full: Callable[[], bool]) -> Iterator[Any]:
        wanted = self._sampler.lease(lease)
        if self._loaded is None:
            loaded = iter(self._loader)  # forks: before there is another thread of ours
            self._loaded = ReadAhead(loaded) if getattr(self._loader, "num_workers", 0) else loaded
        for micro_batch in wanted:
            began = time.perf_counter()
            batch = self._sampler.take(micro_batch, self._loaded)
            self.wait_seconds += time.perf_counter() - began
            yield batch

    def close(self) -> None:
        if isinstance(self._loaded, ReadAhead):
            self._loaded.close()


class FreeFeed:
    """The script's own loader, begun again whenever it ends."""

    plans_ahead = False

    def __init__(self, loader: Iterable[Any], job: Job) -> None:
        """Raises Refused if it cannot be told how many batches fill a slot."""
        size = getattr(loader, "batch_size", None)
        if size is not None:
            _check_divides(job.batch.slot_samples, size, "the loader's batch_size")
        elif job.batch.weight == "tokens":
            raise Refused(
                'data.mode = "free" and batch.weight = "tokens": nothing says how many batches of this '
                "loader fill a slot",
                remedy="give run.slots() a DataLoader with batch_size",
            )
        self._loader, self._size = loader, size
        self._loaded: Iterator[Any] = iter(loader)
        self.wait_seconds = 0.0

    def batches(self, lease: m.Lease, is_full: Callable[[], bool]) -> Iterator[Any]:
        left = lease.sample_count // self._size if self._size else None
        while not is_full() if left is None else left > 0:
            yield self._next()
            left = None if left is None else left - 1

    def _next(self) -> Any:
        began = time.perf_counter()
        try:
            batch = next(self._loaded)
        except StopIteration:
            self._loaded = iter(self._loader)
            try:
                batch = next(self._loaded)
            except StopIteration:
                raise Refused("the loader gives no batch: its data set is empty") from None
        self.wait_seconds += time.perf_counter() - began
        return batch

    def close(self) -> None:
        pass


class SequentialFiles:
    """Reads ranges of samples from files that only read forwards, such as tars; keeps one open.

    `open_file(name)` returns an iterator over the samples of a file, in their order.
    """

    plans_ahead = False

    def __init__(
        self,
        open_file: Callable[[str], Iterator[Any]],
        micro_batch: int,
        collate: Callable[[list[Any]], Any] = list,
    ) -> None:
        self._open_file, self._micro_batch, self._collate = open_file, micro_batch, collate
        self._name, self._at = "", 0
        self._samples: Iterator[Any] = iter(())
        self.wait_seconds = 0.0

    def read(self, files: Iterable[m.FileRange]) -> Iterator[Any]:
        """The samples of these ranges, one by one. Raises Refused where a file is too short."""
        for file in files:
            if file.file != self._name or self._at > file.first:
                self._name, self._at, self._samples = file.file, 0, iter(self._open_file(file.file))
            while self._at < file.first:
                self._next()
            for _ in range(file.count):
                yield self._next()

    def _next(self) -> Any:
        try:
            sample = next(self._samples)
        except StopIteration:
            name, self._name = self._name, ""
            raise Refused(
                f"{name} ends after {self._at} samples: data.files in the job file says that it holds more"
            ) from None
        self._at += 1
        return sample

    def batches(self, lease: m.Lease, is_full: Callable[[], bool]) -> Iterator[Any]:
        _check_divides(lease.sample_count, self._micro_batch, "micro_batch")
        samples: list[Any] = []
        began = time.perf_counter()
        for sample in self.read(lease.files):
            samples.append(sample)
            if len(samples) == self._micro_batch:
                self.wait_seconds += time.perf_counter() - began
                yield self._collate(samples)
                samples, began = [], time.perf_counter()

    def close(self) -> None:
        """The file that is open is left to the iterator that reads it."""


def feed_of(loader: Any, job: Job, sampler: SlotSampler | None) -> Feed:
    """The feed of a loader, by the job's data mode; raises Refused if they do not fit."""
    _check_data_set(loader, job)
    if job.data.mode == "free":
        return FreeFeed(loader, job)
    if job.data.mode == "shards":
        if not isinstance(loader, SequentialFiles):
            raise Refused(
                f'data.mode = "shards": a lease names ranges of files, not for a {type(loader).__name__}',
                remedy="give run.slots() a sheepfold.SequentialFiles",
            )
        return loader
    is_ours: bool = getattr(loader, "batch_sampler", None) is sampler
    if sampler is None or not is_ours:
        raise Refused(
            'data.mode = "indexed": a lease names samples, and this loader chooses its own',
            remedy="give it batch_sampler=run.batch_sampler(micro_batch=...) of this run",
        )
    if getattr(loader, "in_order", True) is False:
        raise Refused("the loader has in_order=False", remedy="leave it out: batches must come as asked for")
    return IndexedFeed(loader, sampler)


def _check_data_set(loader: Any, job: Job) -> None:
    data_set: Any = getattr(loader, "dataset", None)
    samples = len(data_set) if hasattr(data_set, "__len__") else 0
    if job.data.mode == "indexed" and samples and samples != job.data.samples:
        raise Refused(
            f"the loader's data set has {samples} samples, the job says data.samples = {job.data.samples}",
            field="data.samples",
            expected=job.data.samples,
            got=samples,
            remedy="give the data set that the job was made for",
        )
    if job.data.fingerprint and samples:
        found = data_fingerprint(data_set)
        if found != job.data.fingerprint:
            raise Refused(
                f"the loader's data set has the fingerprint {found}, the job's is {job.data.fingerprint}",
                field="data.fingerprint",
                expected=job.data.fingerprint,
                got=found,
                remedy="give the data set that the job was made for, in its order",
            )


def _check_divides(slot_samples: int, micro_batch: int, what: str) -> None:
    if micro_batch < 1 or slot_samples % micro_batch:
        fitting = [size for size in range(1, slot_samples + 1) if slot_samples % size == 0]
        nearest = min(fitting, key=lambda size: abs(size - micro_batch))
        raise Refused(
            f"{what} = {micro_batch} does not divide batch.slot_samples = {slot_samples}",
            field=what,
            expected=nearest,
            got=micro_batch,
            remedy=f"the nearest that does is {nearest}",
        )
