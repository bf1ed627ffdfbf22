"""The coordinator's side of the checkpoint store: indices written, found and verified, beside its actors."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.records import Ledger
from sheepfold_server.shell.part_store import StoreErrors
from sheepfold_server.storage.checkpoints import (
    CheckpointCorrupt,
    CheckpointIndex,
    CheckpointStore,
    PartFile,
)
from sheepfold_server.storage.log.errors import LogMismatch
from sheepfold_server.storage.log.values import Values
from sheepfold_wire.job import job_from_json
from sheepfold_wire.manifest import Manifest

log = logging.getLogger(__name__)

LEDGERS: Values[Ledger] = Values((Ledger,))
_ABANDONED_SECONDS = 86_400.0
"""Temporary files that old are of saves that died."""


class CheckpointDesk:
    """All checkpoints below one url. `do` runs work in its thread, in the order it is asked for."""

    def __init__(self, url: str, executor: Executor) -> None:
        self.url, self._executor = url, executor

    def do(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception:
                log.exception("work on checkpoints in %s failed", self.url)

        self._executor.submit(guarded)

    def store_index(self, effect: e.StoreIndex) -> e.IndexStored:
        """Makes the checkpoint exist."""
        books = effect.books
        version = books.ledger.version
        job = job_from_json(effect.config_json)
        try:
            store = CheckpointStore(self.url, job.name)
            manifest = Manifest.from_json(books.manifest_json)
            index = CheckpointIndex(
                job=job.name,
                lineage=books.lineage,
                version=version,
                applied_steps=effect.applied_steps,
                term=effect.term,
                created_at=time.time(),
                manifest_json=books.manifest_json,
                manifest_digest=manifest.digest,
                config_json=effect.config_json,
                shard_count=books.shard_count,
                split_above_bytes=job.placement.split_above_bytes,
                numeric_fingerprint=effect.numeric_fingerprint,
                kernel=books.kernel,
                ledger=json.loads(LEDGERS.encode(books.ledger))[1],
                files=tuple(PartFile(file=p.file, bytes=p.bytes, sha256=p.sha256) for p in effect.parts),
            )
            store.write_index(index)
        except StoreErrors as error:
            return e.IndexStored(version, str(error))
        except Exception as error:
            log.exception("the index of version %d is not stored", version)
            return e.IndexStored(version, f"{type(error).__name__}: see the log of the coordinator")
        return e.IndexStored(version)

    def clean(self, job: str, lineage: str, keep: int) -> None:
        """Removes what the job keeps no longer, after reading what it keeps; a failure costs room only."""
        try:
            store = CheckpointStore(self.url, job)
            for version in store.retain(keep, lineage):
                log.info("job %s: the checkpoint of version %d is removed", store.job, version)
            store.sweep(time.time() - _ABANDONED_SECONDS)
        except StoreErrors as error:
            log.warning("job %s: older checkpoints are not removed: %s", job, error)

    def find(self, job: str, effect: e.FindCheckpoint) -> e.CheckpointFound:
        """The newest of these lineages that verifies, or that of one version."""
        passed_over: list[str] = []
        versions: list[int] = []
        lineage = new_lineage()
        try:
            store = CheckpointStore(self.url, job)
            indices = list(_newest_first(store, effect.sources, passed_over))
            versions = sorted({index.version for index in indices}, reverse=True)
            found = _first_that_verifies(store, indices, effect.version, passed_over)
        except StoreErrors as error:
            passed_over.append(f"{self.url} cannot be read: {error}")
            found = None
        except Exception as error:
            log.exception("no checkpoint of job %s can be found", job)
            passed_over.append(f"{type(error).__name__}: see the log of the coordinator")
            found = None
        if found is None:
            return e.CheckpointFound(None, None, tuple(versions), lineage, tuple(passed_over))
        index, ledger = found
        ref = m.CheckpointRef(index.lineage, index.version, index.term)
        numerics = index.numeric_fingerprint
        return e.CheckpointFound(ref, ledger, tuple(versions), lineage, tuple(passed_over), numerics)

    def verify(self, job: str, ref: m.CheckpointRef) -> e.CheckpointVerified:
        """Whether every file of that checkpoint is as its index says."""
        try:
            store = CheckpointStore(self.url, job)
            listing = store.listing(ref.lineage)
            for index in listing.indices + listing.superseded:
                if (index.version, index.term) == (ref.version, ref.term):
                    store.verify(index)
                    return e.CheckpointVerified()
            problems = "".join(f"; {problem.file}: {problem.reason}" for problem in listing.problems)
            return e.CheckpointVerified(f"{self.url} has no index of version {ref.version}{problems}")
        except (*StoreErrors, CheckpointCorrupt) as error:
            return e.CheckpointVerified(str(error))
        except Exception as error:
            log.exception("the checkpoint of version %d of job %s cannot be read", ref.version, job)
            return e.CheckpointVerified(f"{type(error).__name__}: see the log of the coordinator")

    def newest(
        self, job: str, version: int | None
    ) -> tuple[tuple[CheckpointIndex, Ledger] | None, tuple[str, ...]]:
        """Of a job that is not here: of the history that the checkpoint stored last belongs to, and no other.

        Raises StoreErrors.
        """
        store, passed_over = CheckpointStore(self.url, job), list[str]()
        listing = store.listing()
        last = max(listing.indices, key=lambda index: (index.created_at, index.version), default=None)
        if last is None:
            return None, tuple(f"{problem.file}: {problem.reason}" for problem in listing.problems)
        older = [(ref.lineage, ref.version) for ref in reversed(ledger_of(last).ancestry)]
        indices = list(_newest_first(store, ((last.lineage, None), *older), passed_over))
        return _first_that_verifies(store, indices, version, passed_over), tuple(passed_over)


def new_lineage() -> str:
    return uuid.uuid4().hex


def ledger_of(index: CheckpointIndex) -> Ledger:
    """Raises LogMismatch for that of a newer version of this program."""
    return LEDGERS.decode(json.dumps(["Ledger", index.ledger]))


def _newest_first(
    store: CheckpointStore, sources: tuple[tuple[str, int | None], ...], passed_over: list[str]
) -> Iterator[CheckpointIndex]:
    for lineage, newest in sources:
        listing = store.listing(lineage)
        passed_over += [f"{problem.file}: {problem.reason}" for problem in listing.problems]
        every = listing.indices + listing.superseded
        for index in sorted(every, key=lambda index: (index.version, index.term), reverse=True):
            if newest is None or index.version <= newest:
                yield index


def _first_that_verifies(
    store: CheckpointStore, indices: list[CheckpointIndex], version: int | None, passed_over: list[str]
) -> tuple[CheckpointIndex, Ledger] | None:
    for index in indices:
        if version is not None and index.version != version:
            continue
        try:
            store.verify(index)
            ledger = ledger_of(index)
        except (CheckpointCorrupt, LogMismatch, TypeError) as error:
            log.error("passing over the checkpoint of version %d: %s", index.version, error)
            passed_over.append(str(error))
        else:
            return index, ledger
    return None
