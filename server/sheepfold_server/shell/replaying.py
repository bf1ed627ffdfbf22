"""A job rebuilt from what is kept of it, while its servers stand still. Nothing is changed, no lock is taken.

One shard after the other, by the code that runs live: memory for the largest one is enough.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sheepfold_server.core.past import Past, past_of
from sheepfold_server.core.records import ShardRecord
from sheepfold_server.core.replay import Replay, ReplayEffect, VersionDone, replayed
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.shell import job_log, shard_log
from sheepfold_server.shell.kernel_work import KernelWork, Redone
from sheepfold_server.shell.kernels import KernelFolder, numeric_fingerprint
from sheepfold_server.shell.lock import holder_of
from sheepfold_server.shell.opened_job import OpenedJob
from sheepfold_server.shell.part_store import state_of_part
from sheepfold_server.shell.shard_log import NoLog
from sheepfold_server.shell.start import StartError
from sheepfold_server.storage.checkpoints import CheckpointCorrupt, CheckpointStore
from sheepfold_server.storage.checkpoints.export import tensors_of, write_weights
from sheepfold_server.storage.checkpoints.parts import FLOATS, INTEGERS, WEIGHTS
from sheepfold_server.storage.checkpoints.tensors import Arrays
from sheepfold_server.storage.log.reading import Heads, read_heads, read_log
from sheepfold_server.storage.log.segment import read_payload
from sheepfold_server.storage.log.segment_file import Found
from sheepfold_wire.digest import Entry, combine_digests
from sheepfold_wire.errors import BadConfig, JobUnknown, NumericsMismatch, PreconditionError, VersionGone
from sheepfold_wire.job import job_from_json
from sheepfold_wire.plan import Plan

NEVER = sys.maxsize
"""No version is encoded for pulls."""

Look = Callable[[int, ShardTensors], None]
"""Takes the tensors of one shard as they are at a version; they change when it returns."""

Tell = Callable[[str], None]
"""Takes a sentence about what is less than it should be, and does not stop the rest."""


class Source(Protocol):
    """Something that states of a job can be had from."""

    name: str
    lineage: str

    @property
    def versions(self) -> Collection[int]: ...

    def visit(self, wanted: Collection[int], look: Look) -> None:
        """Shows every shard once at each of these versions; none at those that turn out to be damaged."""


def digests(source: Source, wanted: Collection[int], look: Look) -> dict[int, str]:
    """Of the versions that the source has: what `Client.digest` gave while the job was there.

    Raises what the source raises, DigestConflict.
    """
    entries: dict[int, list[Entry]] = {version: [] for version in wanted if version in source.versions}

    def collect(version: int, tensors: ShardTensors) -> None:
        entries[version] += tensors.block_digests()
        look(version, tensors)

    source.visit(entries.keys(), collect)
    return {version: combine_digests(pieces) for version, pieces in entries.items() if pieces}


class Weights:
    """Takes the weights of one version out of what is shown."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._plan: Plan | None = None
        self._parts: dict[int, Arrays] = {}
        """By shard."""

    def look(self, version: int, tensors: ShardTensors) -> None:
        if version == self.version:
            held, layout = tensors.held(), tensors.layout
            self._plan = layout.plan
            self._parts[layout.shard] = {
                WEIGHTS: held.weights.copy(),
                FLOATS: held.floats.copy(),
                INTEGERS: held.integers.copy(),
            }

    def write(self, into: Path, job: str, lineage: str) -> int:
        """One safetensors file under the model's own names; how many tensors. Raises OSError."""
        assert self._plan is not None, "the version was shown"
        tensors = tensors_of(self._plan, [self._parts[shard] for shard in sorted(self._parts)])
        return write_weights(tensors, into, job, self.version, lineage)


def chosen(versions: Collection[int], version: int | None, first: int | None, last: int | None) -> list[int]:
    """Those asked for of the versions there are: one, a range of them, else the newest.

    Raises BadConfig, VersionGone.
    """
    if version is not None and (first is not None or last is not None):
        raise BadConfig("--version is one version, --from and --to are a range: give one or the other")
    if not versions:
        raise VersionGone("no state of the job is in the logs and checkpoints that were read")
    is_newest = version is first is last is None
    least = max(versions) if is_newest else next(v for v in (version, first, min(versions)) if v is not None)
    most = next(v for v in (version, last, max(versions)) if v is not None)
    if least > most:
        raise BadConfig(f"versions {least} to {most}: give --from A and --to B with A not above B")
    if not all(each in versions for each in range(least, most + 1)):
        wanted = f"version {least}" if least == most else f"all of versions {least} to {most}"
        raise VersionGone(
            f"{wanted}: not in the logs and checkpoints that were read; versions that are: "
            f"{ranges(sorted(versions))}"
        )
    return list(range(least, most + 1))


def ranges(versions: Sequence[int]) -> str:
    """Ascending numbers, for people: "0 to 4, 8"."""
    told, start = list[str](), 0
    for end in range(1, len(versions) + 1):
        if end == len(versions) or versions[end] != versions[end - 1] + 1:
            first, last = versions[start], versions[end - 1]
            told.append(str(first) if first == last else f"{first} to {last}")
            start = end
    return ", ".join(told) or "none"


@contextmanager
def standing_still(directory: Path) -> Iterator[None]:
    """While its files are read. Raises StartError if a server has them, or has taken them meanwhile."""
    _check_free(directory)
    try:
        yield
    finally:
        _check_free(directory)  # what looks like damage may be a server's work


def _check_free(directory: Path) -> None:
    for path in (directory, directory / "coordinator", *sorted(directory.glob("shard-*"))):
        holder = holder_of(path)
        if holder is not None:
            raise StartError(
                f"DATA_DIR_LOCKED: {path} is in use by the process with pid {holder}; stop that one, or copy "
                f"{directory} and give the copy"
            )


class Logs:
    """The logs of a job's present lineage, as a fleet leaves them: DIR/coordinator, DIR/shard-0, ..."""

    name = "log"

    def __init__(self, directory: Path, job: str, device: str, tell: Tell) -> None:
        """Reads them whole. Raises JobUnknown, NumericsMismatch, PreconditionError, LogError, OSError."""
        self._folder, self._numerics = KernelFolder(device), numeric_fingerprint(device)
        self.past = _past(directory / "coordinator" / "jobs" / job, job)
        shards = range(self.past.command.shard_count)
        self.lineage = self.past.command.lineage
        self._shards = [self._read(directory / f"shard-{shard}", shard) for shard in shards]
        if shortfall := self._shortfall():
            tell(shortfall)

    def _read(self, directory: Path, shard: int) -> _LoggedShard:
        opened = OpenedJob.of(self.past.command, shard)
        path = opened.log_directory(directory)
        found = list(read_log(self._heads(path, opened)))
        return _LoggedShard(opened, self.past, path, found)

    def _heads(self, path: Path, opened: OpenedJob) -> Heads:
        """Raises NumericsMismatch, LogError."""
        mine, any_numerics = opened.belongs_to(self._numerics), opened.belongs_to("")
        heads = read_heads(path)
        for segment, head in heads:
            if head.belongs_to != mine and head.belongs_to.startswith(any_numerics):
                raise NumericsMismatch(
                    f"{segment} was computed with {head.belongs_to.removeprefix(any_numerics)}, here is "
                    f"{self._numerics}: the same steps would give other bits; replay it where it was "
                    "computed (--device cuda if on a GPU), or give --url alone, for what checkpoints hold"
                )
        return read_heads(path, mine)

    @property
    def versions(self) -> range:
        """That all shards lead to."""
        firsts = [shard.versions.start for shard in self._shards]
        return range(max(firsts), min(shard.versions.stop for shard in self._shards))

    def _shortfall(self) -> str:
        """A log that leads to an older version than the newest that is decided; "" if none does."""
        version = self.past.version
        if self._shards[0].opened.job.durability.level == "checkpoint":
            return ""
        for number, shard in enumerate(self._shards):
            if not shard.versions:
                return f"version {version} is decided, and shard {number} has no state in {shard.path}"
            if shard.versions[-1] < version:
                return (
                    f"version {version} is decided, and the log of shard {number} leads to version "
                    f"{shard.versions[-1]}: a mean gradient is lost, or norms are still to be exchanged; "
                    "the servers go on from there, or say what is lost"
                )
        return ""

    def visit(self, wanted: Collection[int], look: Look) -> None:
        """Raises KernelError, LogError, OSError."""
        for shard in self._shards if wanted else ():
            shard.visit(self._folder, wanted, look)


def _past(path: Path, job: str) -> Past:
    if not path.is_dir():
        known = ", ".join(sorted(other.name for other in path.parent.glob("*"))) or "none"
        raise JobUnknown(
            f"no job named {job!r} in {path.parent} (known: {known}); give the state directory of `sheepfold "
            "up`, or one that holds what was given as --dir as coordinator, shard-0, shard-1, ..."
        )
    found = read_log(read_heads(path, f"job {job}"))
    try:
        past = past_of([job_log.VALUES.decode(each.text) for each in found])
    except LookupError as error:
        raise PreconditionError(f"{path} is the log of no job: {error}; give --url alone") from None
    if past is None:
        raise PreconditionError(f"job {job} in {path} has no model yet: no worker has brought one")
    return past


class _LoggedShard:
    """One shard's log and what it leads to."""

    def __init__(self, opened: OpenedJob, past: Past, path: Path, found: list[Found]) -> None:
        """Raises PreconditionError for a log that contradicts itself, or the coordinator's."""
        self.opened, self.path, self._past, self._found = opened, path, past, found
        self._records: list[ShardRecord] = [shard_log.VALUES.decode(each.text) for each in found]
        other = past.contradicted_by(self._records)
        if other is not None:
            raise PreconditionError(
                f"{path} notes another decision on step {other.step} (map {other.map_digest}) than the log "
                "of the coordinator: these directories are of different runs; bring those together that "
                "belong together, or give --url alone"
            )
        try:
            done = [effect.version for effect in self._effects() if isinstance(effect, VersionDone)]
        except LookupError as error:
            raise PreconditionError(f"{path} contradicts itself: {error}; give --url alone") from None
        self.versions = range(done[0], done[-1] + 1) if done else range(0)

    def _effects(self) -> Iterator[ReplayEffect]:
        replay = Replay(self.opened.holds_split, self.opened.counts_skips)
        places = range(len(self._records))
        return replayed(replay, zip(self._records, places, strict=True), self._past.decided)

    def visit(self, folder: KernelFolder, wanted: Collection[int], look: Look) -> None:
        tensors = self.opened.tensors(folder)
        work = KernelWork(tensors, NoLog(), lambda version, made: None)
        redone = Redone(work, lambda place: read_payload(self._found[place]), NEVER)
        for effect in self._effects():
            redone.take(effect)
            if isinstance(effect, VersionDone):
                if effect.version in wanted:
                    look(effect.version, tensors)
                if effect.version >= max(wanted):
                    return


class Checkpoints:
    """The checkpoints of one lineage of a job."""

    name = "checkpoint"

    def __init__(self, url: str, job: str, lineage: str | None, tell: Tell) -> None:
        """Without a lineage, that of the checkpoint which was stored last. Raises StoreErrors."""
        self._store, self._tell = CheckpointStore(url, job), tell
        listing = self._store.listing(lineage)
        for problem in listing.problems:
            tell(f"{problem.file}: {problem.reason}")
        newest = max(listing.indices, key=lambda index: (index.created_at, index.version), default=None)
        self.lineage = "" if newest is None else newest.lineage
        self._indices = {i.version: i for i in listing.indices if i.lineage == self.lineage}

    @property
    def versions(self) -> Collection[int]:
        return self._indices.keys()

    def visit(self, wanted: Collection[int], look: Look) -> None:
        """Each file is read whole first; of a damaged one is told. Raises StoreErrors."""
        for version in wanted:
            index = self._indices[version]
            try:
                self._store.verify(index)
            except CheckpointCorrupt as error:
                self._tell(str(error))
                continue
            plan, optimizer = index.plan(index.shard_count), job_from_json(index.config_json).optimizer
            for shard in range(index.shard_count):
                tensors = ShardTensors(plan, shard, optimizer)
                arrays = self._store.read_part(index, shard, index.shard_count)
                tensors.restore(state_of_part(version, arrays).snapshot)
                look(version, tensors)
