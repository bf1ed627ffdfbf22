"""Bad links between workers, shards and coordinator: what breaks is done again, and not one bit differs.

In plain text the bytes of tensors are under checksums, and nothing else is: a flipped bit of a learning rate
would be believed. Under TLS every flipped bit is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tests.faults.proxy import Fault, Place, Proxy, within
from tests.faults.raw import MANIFEST, RawWorker
from tests.integration.harness import Detour, RunningFold, digest_of, running_fold, small_job, train, until

import sheepfold_wire.messages as m
from sheepfold.transport.shared_memory import VARIABLE as SHARED_MEMORY
from sheepfold_server.shell.certificates import make_security
from sheepfold_wire.connection import Connection
from sheepfold_wire.errors import ChunkChecksumMismatch
from sheepfold_wire.job import Job

pytestmark = pytest.mark.slow

SEED = 20
STALL_SECONDS = 0.5
JOB = small_job("links", stop={"steps": 8}, leases={"seconds": 3.0})
TRAFFIC_BYTES_MIN = 8 * 8 * 200_000
"""Of each shard: 8 steps of 8 slots, half of 210,000 values in bf16 each."""


@cache
def golden(job: str) -> str:
    with running_fold(2) as fold:
        train(fold.address, Job.model_validate_json(job))
        return digest_of(fold.address, JOB.name)


@dataclass(frozen=True)
class Links:
    """A fold in this process whose workers come through proxies."""

    fold: RunningFold
    to_coordinator: Proxy
    of_shards: Proxy
    to_shards: list[Proxy]

    @property
    def address(self) -> str:
        secured = self.fold.connection
        return Connection(self.to_coordinator.address, secured.ca, secured.token).secret

    @property
    def all(self) -> list[Proxy]:
        return [self.to_coordinator, self.of_shards, *self.to_shards]


@contextmanager
def fold_behind(kind: type[Proxy], tls: Path | None = None) -> Iterator[Links]:
    folds: list[RunningFold] = []

    def coordinator() -> str:
        return folds[0].address if folds else ""

    def servers() -> str:
        return folds[0].servers_address if folds else ""

    to_coordinator, of_shards = kind(coordinator, SEED), kind(servers, SEED + 1)
    to_shards = [kind(lambda i=i: folds[0].shards[i].address, SEED + 2 + i) for i in range(2)]  # type: ignore[misc]
    detour = Detour(of_shards.address, [proxy.address for proxy in to_shards])
    try:
        with pytest.MonkeyPatch.context() as patch, running_fold(2, tls=tls, detour=detour) as fold:
            patch.setenv(SHARED_MEMORY, "0")  # it would lead past the proxies
            folds.append(fold)
            yield Links(fold, to_coordinator, of_shards, to_shards)
    finally:
        for proxy in (to_coordinator, of_shards, *to_shards):
            proxy.close()


def train_while(links: Links, disturb: Callable[[int], None]) -> str:
    """The digest of a run in which something happens before each push."""
    pushes = iter(range(1_000_000))
    train(links.address, JOB, lambda slot: disturb(next(pushes)))
    return digest_of(links.fold.connection.secret, JOB.name)


def check_faults(kind: type[Proxy], faults: tuple[Fault, ...]) -> None:
    """Every link meets every fault, under load, and the job ends as if nothing had been."""
    print(f"seed {SEED}")
    with fold_behind(kind) as links:
        todo = [(proxy, fault) for proxy in links.all for fault in faults]

        def disturb(push: int) -> None:
            if push % 3 == 0 and push // 3 < len(todo):
                proxy, fault = todo[push // 3]
                proxy.strike(fault, STALL_SECONDS)

        assert train_while(links, disturb) == golden(JOB.model_dump_json())
        for proxy, fault in todo:
            assert proxy.injected[fault], f"no {fault} was injected"
        for proxy in links.to_shards:
            assert proxy.forwarded_bytes > TRAFFIC_BYTES_MIN, "workers went past the proxies"


LOUD = (Fault.DELAY, Fault.STALL, Fault.DROP, Fault.HALF_CLOSE)


def test_links_that_are_slow_stalled_or_cut_change_no_bit() -> None:
    check_faults(Proxy, LOUD)


def test_under_tls_any_flipped_bit_breaks_its_connection_and_changes_nothing(tmp_path: Path) -> None:
    make_security(tmp_path / "tls", ["127.0.0.1"])
    with fold_behind(Proxy, tmp_path / "tls") as links:

        def disturb(push: int) -> None:
            proxy = links.all[push // 4 % 4]
            if push % 4 == 0 and push < 48:
                until(lambda: not proxy.is_corrupting, "the flip before")
                proxy.strike(Fault.CORRUPT)

        assert train_while(links, disturb) == golden(JOB.model_dump_json())
        for proxy in links.all:
            assert proxy.injected[Fault.CORRUPT] >= 2
            assert proxy.connections_made > proxy.injected[Fault.CORRUPT], "a connection outlived a flip"


class Idle(Proxy):
    """Forwards, and does nothing else: an injector that is broken."""

    def _strike(self, fault: Fault, seconds: float, place: Place | None) -> None:
        pass


def test_proxy_that_injects_nothing_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no delay was injected"):
        check_faults(Idle, LOUD)


def test_workers_that_go_past_the_proxies_are_noticed() -> None:
    with fold_behind(Proxy) as links:
        train(links.fold.address, JOB)
        assert links.to_coordinator.forwarded_bytes == 0
        assert links.to_shards[0].forwarded_bytes > TRAFFIC_BYTES_MIN, "shards are advertised by the proxies"


# --- plain text: what is under a checksum, and what comes of it ------------------------------------------


@contextmanager
def raw_behind() -> Iterator[tuple[Links, RawWorker]]:
    job = small_job("plain", wire={"up": "fp32"}, leases={"seconds": 30.0})
    with fold_behind(Proxy) as links:
        worker = RawWorker(links.address, job)
        try:
            init = worker.lease()
            assert init is not None
            worker.push(init)
            yield links, worker
        finally:
            worker.close()


def test_flipped_bit_of_a_pushed_part_is_refused_and_the_same_attempt_counts_when_sent_again() -> None:
    with raw_behind() as (links, worker):
        lease = worker.lease()
        assert lease is not None
        pattern = worker.payload(lease, 0)[40_000:40_032]
        links.to_shards[0].strike(Fault.CORRUPT, place=within(pattern))
        with pytest.raises(ChunkChecksumMismatch, match="offset 0"):
            worker.push_part(lease, 0)
        assert links.to_shards[0].injected[Fault.CORRUPT] == 1
        assert not worker.push_part(lease, 0).duplicate
        worker.push_part(lease, 1)
        worker.work()
        disturbed = digest_of(links.fold.address, worker.job.name)
    with running_fold(2) as fold:
        undisturbed = RawWorker(fold.address, worker.job)
        undisturbed.work()
        undisturbed.close()
        assert digest_of(fold.address, worker.job.name) == disturbed


def test_flipped_bit_of_pulled_weights_is_noticed_by_the_worker() -> None:
    with raw_behind() as (links, worker):
        shard = worker.attached.shards[0]
        asked = m.PullRequest(
            job=worker.job.name,
            shard=0,
            incarnation=shard.incarnation,
            manifest_digest=MANIFEST.digest,
            plan_digest=worker.plan.digest,
            codec="fp32",
            version=0,
            wait_seconds=10.0,
        )
        version, weights = worker.transport.pull(shard, asked)
        assert version == 0
        links.to_shards[0].strike(Fault.CORRUPT, place=within(bytes(memoryview(weights)[40_000:40_032])))
        with pytest.raises(ChunkChecksumMismatch):
            worker.transport.pull(shard, asked)
        assert bytes(worker.transport.pull(shard, asked)[1]) == bytes(weights)


def test_worker_sends_a_damaged_part_again_and_the_job_has_the_same_bits() -> None:
    """What comes of it in a script: nothing."""
    flips = 0
    with fold_behind(Proxy) as links:

        def place(piece: bytes) -> int | None:
            """Deep inside a piece that is payload throughout: gradients are noise, headers are not."""
            nonlocal flips
            middle = np.frombuffer(piece[len(piece) // 2 :][:4096], np.uint8)
            if len(middle) < 4096 or len(np.unique(middle)) < 100:
                return None
            flips += 1
            return len(piece) // 2 + 2048

        def disturb(push: int) -> None:
            if push in (9, 20, 31):
                links.to_shards[push % 2].strike(Fault.CORRUPT, place=place)

        assert train_while(links, disturb) == golden(JOB.model_dump_json())
        assert sum(proxy.injected[Fault.CORRUPT] for proxy in links.to_shards) == flips == 3
