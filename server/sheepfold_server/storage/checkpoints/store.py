"""The durable store of step-aligned checkpoints of one job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy.typing as npt
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from sheepfold_server.storage.checkpoints.directory import DirectoryFiles
from sheepfold_server.storage.checkpoints.errors import (
    CheckpointCorrupt,
    CheckpointFormatUnknown,
    CheckpointIndexTaken,
    CheckpointIndexUnreadable,
    CheckpointRefused,
)
from sheepfold_server.storage.checkpoints.files import Content, Files
from sheepfold_server.storage.checkpoints.index import INDEX_BYTES_MAX, CheckpointIndex, PartFile
from sheepfold_server.storage.checkpoints.names import (
    TEMPORARY,
    PartId,
    check_name,
    check_number,
    version_and_term,
)
from sheepfold_server.storage.checkpoints.parts import check_arrays
from sheepfold_server.storage.checkpoints.reading import OldParts, check_weights
from sheepfold_server.storage.checkpoints.tensors import Arrays, chunks
from sheepfold_wire.plan import Plan

T = TypeVar("T")

RETAINED_MIN = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """A checkpoint that was passed over: the file that is to blame, relative to the url, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What a look at the store found.

    `indices`: one for each version, that of its highest term, newest version first. `superseded`: the others
    of lower terms in the same order. `problems`: files that are called an index, but cannot be relied on.
    """

    indices: tuple[CheckpointIndex, ...]
    superseded: tuple[CheckpointIndex, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoint to restore, or None where no one verifies, and what was passed over for it."""

    index: CheckpointIndex | None
    skipped: tuple[Problem, ...]


class CheckpointStore:
    """Checkpoints of `job` at `url`: a directory, or anything that fsspec has a driver for.

    All shards and the coordinator must see the same files there. Raises CheckpointRefused for a bad job name.
    Errors of the store itself (no network, no permission) pass through all methods that read.
    """

    def __init__(self, url: str, job: str) -> None:
        self.url, self.job = url, check_name("job", job)
        filesystem, root = url_to_fs(url)
        is_directory = isinstance(filesystem, LocalFileSystem)
        self._files = DirectoryFiles(root) if is_directory else Files(filesystem, root)

    # --- saving -----------------------------------------------------------------------------------------

    def save_part(self, part: PartId, arrays: Arrays, metadata: Mapping[str, str]) -> PartFile:
        """Stores one shard's arrays durably, reads the file back, and answers what belongs into the index.

        Shapes: weights and state.0, state.1, ...: (rows, 1024) fp32, rows a multiple of 64; applied_steps
        (own parameters,) int64; floats (any,) fp32; integers (any,) int64. They must not change meanwhile.
        Raises CheckpointRefused for others or weights that are not finite, else CheckpointNotStored.
        """
        check_arrays(arrays)
        folder = self._folder(part.lineage)
        prefix = f"{folder}/"
        name, content = self._files.write(
            f"{folder}/{part.version}", lambda token: prefix + part.file(token), chunks(arrays, metadata)
        )
        return PartFile(file=name.removeprefix(prefix), bytes=content.bytes, sha256=content.sha256)

    def write_index(self, index: CheckpointIndex) -> None:
        """Makes a checkpoint exist. To be called once all shards have answered; acknowledge only afterwards.

        May be called again after any failure, also with other files of the same state: an index that an
        earlier call has left in a store of objects then makes it exist. Raises CheckpointRefused for another
        job's index, CheckpointCorrupt if a file is missing here or has another length (a url that is not
        shared), CheckpointNotStored if the index did not read back, CheckpointIndexTaken where a store of
        objects has another state under this version and term.
        """
        self._check_job(index)
        content = index.to_bytes()
        self._check_lengths(index)
        folder = self._folder(index.lineage)
        self._files.publish(folder, index.path, content, lambda found: self._stands_for(index, found))

    def _stands_for(self, index: CheckpointIndex, content: bytes) -> bool:
        """Whether what stands under an index's name does its work; false for what nobody can rely on.

        Raises CheckpointIndexTaken where it is of another state.
        """
        try:
            standing = CheckpointIndex.from_bytes(content, index.path)
            self._check_lengths(standing)
        except CheckpointFormatUnknown as error:
            raise CheckpointIndexTaken(index.path, "none, or the same one", error) from error
        except (CheckpointIndexUnreadable, CheckpointCorrupt):
            return False
        if not index.is_same_state(standing):
            raise CheckpointIndexTaken(index.path, "none, or one of the same state", "another state's")
        return True

    def _folder(self, lineage: str) -> str:
        return f"{self.job}/{check_name('lineage', lineage)}"

    def _check_job(self, index: CheckpointIndex) -> None:
        if index.job != self.job:
            raise CheckpointRefused(f"index of job {index.job!r} for {self.job!r}: open that job's store")

    def _check_lengths(self, index: CheckpointIndex) -> None:
        for shard in range(index.shard_count):
            self._check_length(index, shard)

    def _check_length(self, index: CheckpointIndex, shard: int) -> None:
        expected, found = index.files[shard].bytes, self._files.size(index.part_path(shard))
        if found != expected:
            raise CheckpointCorrupt(index.part_path(shard), f"{expected} bytes", f"{found} bytes")

    # --- finding ----------------------------------------------------------------------------------------

    def lineages(self) -> list[str]:
        """All lineages with a folder, sorted."""
        return self._files.names(self.job, "directory")

    def listing(self, lineage: str | None = None) -> Listing:
        """The indices of a lineage, or of all; warns of each one that cannot be relied on."""
        found: list[CheckpointIndex] = []
        problems: list[Problem] = []
        for path in self._index_paths(lineage):
            try:
                found.append(_twice(partial(self._index, path)))
            except (CheckpointIndexUnreadable, CheckpointCorrupt) as error:
                log.warning("passing over an index: %s", error)
                problems.append(Problem(path, str(error)))
        winners, superseded = _by_version(found)
        return Listing(winners, superseded, tuple(problems))

    def _index_paths(self, lineage: str | None) -> Iterator[str]:
        for each in self.lineages() if lineage is None else [lineage]:
            folder = self._folder(each)
            yield from (f"{folder}/{name}" for name in self._files.names(folder) if version_and_term(name))

    def _index(self, path: str) -> CheckpointIndex:
        with self._files.open(path) as file:
            content = file.read(INDEX_BYTES_MAX + 1)
        if len(content) > INDEX_BYTES_MAX:
            raise CheckpointIndexUnreadable(path, f"at most {INDEX_BYTES_MAX} bytes", "more")
        return CheckpointIndex.from_bytes(content, path)

    def verify(self, index: CheckpointIndex) -> None:
        """Reads every file whole. Raises CheckpointCorrupt for the first that is not what the index promises.

        Compared: existence, length, SHA-256, the arrays and their shapes, finiteness of the weights.
        """
        self._check_job(index)
        plan = index.plan(index.shard_count)
        for shard in range(index.shard_count):
            _twice(partial(self._verify_part, index, plan, shard))

    def _verify_part(self, index: CheckpointIndex, plan: Plan, shard: int) -> None:
        self._check_length(index, shard)
        part, path = index.files[shard], index.part_path(shard)
        expected, found = Content(part.bytes, part.sha256), self._files.content(path)
        if found != expected:
            raise CheckpointCorrupt(path, expected, found)
        check_weights(self._files, path, plan, shard)

    def newest_verified(self, lineage: str | None = None) -> Choice:
        """The newest checkpoint whose every file verifies; warns of each newer one that does not.

        An index of a lower term is tried after its version's others. Over all lineages, newest means the
        highest version, also one that a newer lineage has left behind: name the lineage to go on from.
        """
        listing = self.listing(lineage)
        skipped = list(listing.problems)
        for index in sorted(listing.indices + listing.superseded, key=_age, reverse=True):
            try:
                self.verify(index)
            except CheckpointCorrupt as error:
                log.warning("passing over the checkpoint of version %d: %s", index.version, error)
                skipped.append(Problem(index.path, str(error)))
            else:
                return Choice(index, tuple(skipped))
        return Choice(None, tuple(skipped))

    # --- reading ----------------------------------------------------------------------------------------

    def read_part(self, index: CheckpointIndex, shard: int, shard_count: int) -> dict[str, npt.NDArray[Any]]:
        """The arrays of one of `shard_count` shards, however many wrote the checkpoint.

        With the same number of shards it reads one file, else its own ranges of rows, counters and statistics
        from each file that has some. Rows of padding are 0. Lengths and headers are compared with the index
        and the plan, digests are not: call `verify` once before. Raises CheckpointCorrupt.
        """
        self._check_job(index)
        if not 0 <= shard < shard_count:
            raise CheckpointRefused(f"shard {shard} of {shard_count}: shards are numbered from 0")
        return _twice(partial(self._read_part, index, shard, shard_count))

    def _read_part(self, index: CheckpointIndex, shard: int, shard_count: int) -> dict[str, npt.NDArray[Any]]:
        with OldParts(self._files, index) as parts:
            if shard_count == index.shard_count:
                return parts.whole(shard)
            return parts.resharded(index.plan(shard_count), shard)

    # --- removing ---------------------------------------------------------------------------------------

    def retain(self, count: int, lineage: str) -> tuple[int, ...]:
        """Keeps the newest `count` versions of a lineage that verify, and all that are newer than these.

        Returns the versions whose index it removed. It reads the kept ones whole: a disk may have lost them
        since they were saved, and an older one be the last good copy.

        Indices go first, then the files of versions older than all kept ones that no remaining index names;
        an index that cannot be read keeps all files of its version. A call that died is made up for by the
        next. Raises CheckpointRefused, a ValueError, below 2: the newest may turn out bad.
        """
        if check_number("count", count) < RETAINED_MIN:
            raise CheckpointRefused(f"count={count}: keep at least {RETAINED_MIN} checkpoints")
        listing = self.listing(lineage)
        every = sorted(listing.indices + listing.superseded, key=_age)
        oldest_kept = self._oldest_kept(every, count)
        dropped = [index for index in every if index.version < oldest_kept]
        for index in dropped:
            self._files.remove(index.path)
        self._remove_data(lineage, oldest_kept)
        return tuple(sorted({index.version for index in dropped}))

    def _oldest_kept(self, oldest_first: list[CheckpointIndex], count: int) -> int:
        """The version before which nothing is needed; 0 where that is not certain."""
        if len({index.version for index in oldest_first}) < count:
            return 0
        verified: set[int] = set()
        for index in reversed(oldest_first):
            if index.version not in verified and self._is_good(index):
                verified.add(index.version)
            if len(verified) == count:
                return index.version
        return 0

    def _is_good(self, index: CheckpointIndex) -> bool:
        try:
            self.verify(index)
        except CheckpointCorrupt as error:
            log.warning("not counting the checkpoint of version %d as kept: %s", index.version, error)
            return False
        return True

    def _remove_data(self, lineage: str, before: int) -> None:
        """Removes files of versions below `before` that have no index left, as a fresh look finds it."""
        folder = self._folder(lineage)
        indexed = {found[0] for name in self._files.names(folder) if (found := version_and_term(name))}
        for name in self._files.names(folder, "directory"):
            if name.isdecimal() and int(name) < before and int(name) not in indexed:
                for file in self._files.names(f"{folder}/{name}"):
                    self._files.remove(f"{folder}/{name}/{file}")
                self._files.remove_empty(f"{folder}/{name}")

    def sweep(self, modified_before: float) -> tuple[str, ...]:
        """Removes temporary files that a killed save left, last written before that second since 1970.

        Give a time before any save that may still run. Returns their names; a store of objects has none.
        """
        removed = []
        for lineage in self.lineages():
            folder = self._folder(lineage)
            versions = self._files.names(folder, "directory")
            for each in (folder, *(f"{folder}/{version}" for version in versions)):
                for name in self._files.names(each):
                    modified_at = self._files.modified_at(f"{each}/{name}")
                    if (
                        name.startswith(TEMPORARY)
                        and modified_at is not None
                        and modified_at < modified_before
                    ):
                        self._files.remove(f"{each}/{name}")
                        removed.append(f"{each}/{name}")
        return tuple(removed)


def _twice(read: Callable[[], T]) -> T:
    """A read may be cut short by a store that is bad for a moment: only the second one counts."""
    try:
        return read()
    except (CheckpointCorrupt, CheckpointIndexUnreadable) as error:
        log.warning("reading again: %s", error)
        return read()


def _age(index: CheckpointIndex) -> tuple[int, int, float]:
    return index.version, index.term, index.created_at


def _by_version(
    found: list[CheckpointIndex],
) -> tuple[tuple[CheckpointIndex, ...], tuple[CheckpointIndex, ...]]:
    """(the highest term of each lineage's version, the others), each newest first."""
    newest_first = sorted(found, key=_age, reverse=True)
    winner: dict[tuple[str, int], CheckpointIndex] = {}
    for index in newest_first:
        winner.setdefault((index.lineage, index.version), index)
    winners = [index for index in newest_first if winner[index.lineage, index.version] is index]
    superseded = [index for index in newest_first if winner[index.lineage, index.version] is not index]
    return tuple(winners), tuple(superseded)
