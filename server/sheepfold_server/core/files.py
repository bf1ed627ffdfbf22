"""data.mode = shards: which samples of which files an attempt covers, and what of a data epoch is done.

A worker reads a file in sequence, so it keeps the range it is reading. Whatever an attempt covers is done
only when its step is committed; else it is leased again, to anyone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import sheepfold_wire.messages as m
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.job import Data
from sheepfold_wire.samples import epoch_order

SKIPPED_KEPT = 256


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples [first, first + count) of a file, in one data epoch."""

    epoch: int
    file: int
    first: int
    count: int

    def split(self, count: int) -> tuple[Piece, Piece]:
        rest = replace(self, first=self.first + count, count=self.count - count)
        return replace(self, count=count), rest


class FileLedger:
    """Every sample of every data epoch: to be leased, held by a worker, under way, done or skipped."""

    def __init__(self, data: Data) -> None:
        self._files, self._seed = data.files, data.seed
        starts = [0]
        for file in data.files:
            starts.append(starts[-1] + file.samples)
        self._starts = starts
        self._epoch = -1
        self._free: deque[Piece] = deque()
        self._held: dict[str, Piece] = {}
        """What a worker goes on reading, by worker."""
        self._leased: dict[AttemptId, tuple[Piece, ...]] = {}
        self._refusals: Counter[tuple[int, int, int]] = Counter()
        """By (data epoch, file, sample)."""
        self.committed: Counter[int] = Counter()
        """Samples by data epoch."""
        self.skipped: deque[Piece] = deque(maxlen=SKIPPED_KEPT)
        self.samples_skipped = 0

    def lease(self, attempt: AttemptId, worker: str, samples: int) -> None:
        """The next samples of the file that the worker reads; of others when it is at its end."""
        pieces: list[Piece] = []
        while samples > 0:
            piece = self._held.pop(worker, None) or self._next()
            taken, rest = piece.split(min(samples, piece.count))
            pieces.append(taken)
            samples -= taken.count
            if rest.count:
                self._held[worker] = rest
        self._leased[attempt] = tuple(pieces)

    def _next(self) -> Piece:
        """What is free, else half of the longest range that a worker holds, else the next data epoch."""
        if self._free:
            return self._free.popleft()
        if self._held:
            richest = max(sorted(self._held), key=lambda worker: self._held[worker].count)
            piece = self._held.pop(richest)
            kept, given = piece.split(piece.count // 2)
            if kept.count:
                self._held[richest] = kept
            return given
        self._epoch += 1
        order = epoch_order(len(self._files), self._seed, self._epoch)
        self._free.extend(Piece(self._epoch, int(i), 0, self._files[int(i)].samples) for i in order)
        return self._free.popleft()

    def ranges(self, attempt: AttemptId) -> tuple[m.FileRange, ...]:
        """As the worker and the reports are told of it."""
        pieces = self._leased.get(attempt, ())
        return tuple(m.FileRange(self._files[p.file].name, p.first, p.count) for p in pieces)

    def pieces(self, attempt: AttemptId) -> tuple[tuple[int, int, int, int], ...]:
        """As the log keeps it: (data epoch, file, first, count)."""
        return tuple((p.epoch, p.file, p.first, p.count) for p in self._leased.get(attempt, ()))

    def adopt(self, attempt: AttemptId, pieces: tuple[tuple[int, int, int, int], ...]) -> None:
        """As `pieces` gave them, after a restart; `recover` then says what is left."""
        self._leased[attempt] = tuple(Piece(*piece) for piece in pieces)

    def skip(self, pieces: tuple[tuple[int, int, int, int], ...]) -> None:
        """Samples that an earlier term gave up."""
        for piece in pieces:
            self._skip(Piece(*piece))

    def recover(self, settled: Iterable[tuple[int, int, int, int]]) -> None:
        """After a restart: of every data epoch that was begun, what is not settled comes next, in order."""
        taken: dict[tuple[int, int], list[Piece]] = {}
        for piece in (Piece(*given) for given in settled):
            taken.setdefault((piece.epoch, piece.file), []).append(piece)
            self._epoch = max(self._epoch, piece.epoch)
        for epoch in range(self._epoch + 1):
            for index in epoch_order(len(self._files), self._seed, epoch):
                self._free.extend(self._left_of(epoch, int(index), taken.get((epoch, int(index)), [])))

    def _left_of(self, epoch: int, file: int, taken: list[Piece]) -> Iterator[Piece]:
        """The gaps between ranges of a file."""
        at = 0
        for piece in sorted(taken, key=lambda piece: piece.first):
            if piece.first > at:
                yield Piece(epoch, file, at, piece.first - at)
            at = piece.first + piece.count
        if at < self._files[file].samples:
            yield Piece(epoch, file, at, self._files[file].samples - at)

    def give_back(self, attempt: AttemptId) -> None:
        """The attempt does not count: its samples come next."""
        self._free.extendleft(reversed(self._leased.pop(attempt, ())))

    def refuse(self, attempt: AttemptId, attempts_max: int) -> list[tuple[int, int, int, int]]:
        """Its gradient was refused: samples refused that often are skipped, lest they spoil every step.

        Returns what is skipped, as the log keeps it.
        """
        skipped: list[tuple[int, int, int, int]] = []
        for piece in reversed(self._leased.pop(attempt, ())):
            samples = [(piece.epoch, piece.file, piece.first + index) for index in range(piece.count)]
            self._refusals.update(samples)
            if max(self._refusals[sample] for sample in samples) >= attempts_max:
                self._skip(piece)
                skipped.append((piece.epoch, piece.file, piece.first, piece.count))
            else:
                self._free.appendleft(piece)
        return skipped

    def settle(self, attempt: AttemptId, is_skip: bool) -> None:
        """Its step is committed, or skipped as a whole."""
        for piece in self._leased.pop(attempt, ()):
            if is_skip:
                self._skip(piece)
            else:
                self.committed[piece.epoch] += piece.count

    def _skip(self, piece: Piece) -> None:
        self.skipped.append(piece)
        self.samples_skipped += piece.count

    def left(self, worker: str) -> None:
        """Nobody reads on in the worker's file: the rest of it is free."""
        piece = self._held.pop(worker, None)
        if piece is not None:
            self._free.appendleft(piece)

    def position(self, piece: Piece) -> m.SampleRange:
        """Its place in the job's sample stream, in which a data epoch is all files in their given order."""
        start = self._starts[piece.file] + piece.first
        return m.SampleRange(piece.epoch * self._starts[-1] + start, piece.count)
