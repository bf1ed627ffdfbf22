"""data.mode = shards: which samples of which files an attempt covers, and what of a data epoch is done.

A worker reads a file in sequence, so it keeps the range it is reading. Whatever an attempt covers is done
only when its step is committed; else it is leased again, to anyone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import sheepfold_wire.messages as m
from sheepfold_server.core.records import FileAccounts
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
        order = self._order(self._epoch)
        self._free.extend(Piece(self._epoch, file, 0, self._files[file].samples) for file in order)
        return self._free.popleft()

    def ranges(self, attempt: AttemptId) -> tuple[m.FileRange, ...]:
        """As the worker and the reports are told of it."""
        pieces = self._leased.get(attempt, ())
        return tuple(m.FileRange(self._files[p.file].name, p.first, p.count) for p in pieces)

    def pieces(self, attempt: AttemptId) -> tuple[tuple[int, int, int, int], ...]:
        """As the log keeps it: (data epoch, file, first, count)."""
        return tuple(map(_numbers, self._leased.get(attempt, ())))

    def adopt(self, attempt: AttemptId, pieces: tuple[tuple[int, int, int, int], ...]) -> None:
        """As `pieces` gave them, after a restart; `recover` then says what is left."""
        self._leased[attempt] = tuple(Piece(*piece) for piece in pieces)

    def skip(self, pieces: tuple[tuple[int, int, int, int], ...]) -> None:
        """Samples that an earlier term gave up."""
        for piece in pieces:
            self._skip(Piece(*piece))

    def accounts(self) -> FileAccounts:
        """As they are when every attempt that is not committed or skipped is given back."""
        left = [*self._free, *self._held.values(), *(p for given in self._leased.values() for p in given)]
        places = {
            epoch: {int(file): place for place, file in enumerate(self._order(epoch))}
            for epoch in {piece.epoch for piece in left}
        }
        left.sort(key=lambda piece: (piece.epoch, places[piece.epoch][piece.file], piece.first))
        return FileAccounts(
            self._epoch,
            tuple(map(_numbers, left)),
            tuple(sorted(self.committed.items())),
            tuple(map(_numbers, self.skipped)),
            self.samples_skipped,
        )

    def begin_at(self, accounts: FileAccounts) -> None:
        """Before anything is leased."""
        self._epoch = accounts.epoch
        self._free.extend(Piece(*piece) for piece in accounts.left)
        self.committed.update(dict(accounts.committed))
        self.skipped.extend(Piece(*piece) for piece in accounts.skipped)
        self.samples_skipped = accounts.samples_skipped

    def _order(self, epoch: int) -> list[int]:
        return [int(file) for file in epoch_order(len(self._files), self._seed, epoch)]

    def recover(self, settled: Iterable[tuple[int, int, int, int]]) -> None:
        """After a restart: of every data epoch that was begun, what is not settled comes next, in order."""
        taken: dict[tuple[int, int], list[Piece]] = {}
        begun, newest = list(self._free), self._epoch
        for piece in (Piece(*given) for given in settled):
            taken.setdefault((piece.epoch, piece.file), []).append(piece)
            self._epoch = max(self._epoch, piece.epoch)
        for epoch in range(newest + 1, self._epoch + 1):
            begun.extend(Piece(epoch, file, 0, self._files[file].samples) for file in self._order(epoch))
        self._free = deque(
            left for piece in begun for left in _left_of(piece, taken.get((piece.epoch, piece.file), []))
        )

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


def _numbers(piece: Piece) -> tuple[int, int, int, int]:
    return piece.epoch, piece.file, piece.first, piece.count


def _left_of(whole: Piece, taken: list[Piece]) -> Iterator[Piece]:
    """The gaps between ranges of a piece; those outside of it do not matter."""
    at, end = whole.first, whole.first + whole.count
    for piece in sorted(taken, key=lambda piece: piece.first):
        if at < piece.first < end:
            yield replace(whole, first=at, count=piece.first - at)
        at = max(at, min(end, piece.first + piece.count))
    if at < end:
        yield replace(whole, first=at, count=end - at)
