"""sheepfold_server.core.files: every sample of a data epoch is committed once or listed as skipped."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from tests.unit.desk import Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core.files import FileLedger
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.job import Data, DataFile

FILES = (
    DataFile(name="a.tar", samples=10),
    DataFile(name="b.tar", samples=7),
    DataFile(name="c.tar", samples=1),
)
TOTAL = 18


def ledger_of() -> FileLedger:
    return FileLedger(Data(mode="shards", files=FILES, samples=TOTAL, seed=3))


def leased(ledger: FileLedger, counter: int, worker: str, samples: int = 4) -> tuple[m.FileRange, ...]:
    ledger.lease(AttemptId(1, counter), worker, samples)
    return ledger.ranges(AttemptId(1, counter))


def covered(ranges: tuple[m.FileRange, ...]) -> list[tuple[str, int]]:
    return [(r.file, i) for r in ranges for i in range(r.first, r.first + r.count)]


def test_a_worker_reads_on_where_it_was() -> None:
    ledger = ledger_of()
    first, second = leased(ledger, 1, "x")[-1], leased(ledger, 2, "x")[0]
    assert (first.file, first.first + first.count) == (second.file, second.first)


def test_ranges_add_up_across_the_end_of_a_file() -> None:
    ledger = ledger_of()
    ranges = leased(ledger, 1, "x", TOTAL)
    assert Counter(covered(ranges)) == Counter({(f.name, i): 1 for f in FILES for i in range(f.samples)})


def test_two_workers_read_different_files() -> None:
    ledger = ledger_of()
    assert leased(ledger, 1, "x")[0].file != leased(ledger, 2, "y")[0].file


def test_what_an_ended_attempt_covered_is_leased_again() -> None:
    ledger = ledger_of()
    lost = leased(ledger, 1, "x")
    ledger.left("x")
    ledger.give_back(AttemptId(1, 1))
    assert leased(ledger, 2, "y") == lost


def test_samples_that_are_refused_too_often_are_listed_and_not_leased_again() -> None:
    ledger = ledger_of()
    lost = leased(ledger, 1, "x")
    for counter in (1, 2):
        ledger.left("x")
        ledger.refuse(AttemptId(1, counter), attempts_max=2)
        if counter == 1:
            assert leased(ledger, 2, "x") == lost
    assert leased(ledger, 3, "x") != lost
    listed = [m.FileRange(FILES[p.file].name, p.first, p.count) for p in reversed(ledger.skipped)]
    assert tuple(listed) == lost
    assert sum(ledger.position(piece).count for piece in ledger.skipped) == 4


FATES = ("commit", "commit", "skip", "end", "refuse", "leave")


@pytest.mark.parametrize("seed", range(40))
def test_every_sample_of_an_epoch_is_committed_once_or_skipped_once(seed: int) -> None:
    """Workers come, die and are refused in any order; nothing is lost and nothing counted twice."""
    draw, ledger = random.Random(seed), ledger_of()
    live: dict[int, str] = {}
    seen: Counter[tuple[str, int]] = Counter()
    for counter in range(1, 200):
        live[counter] = draw.choice("xyz")
        leased(ledger, counter, live[counter], draw.randint(1, 6))
        for key in [key for key in live if draw.random() < 0.5]:
            end(ledger, AttemptId(1, key), live.pop(key), draw.choice(FATES), seen)
    for key, worker in live.items():
        end(ledger, AttemptId(1, key), worker, "leave", seen)
    # What was begun is now free, and comes before anything new: it completes the epochs begun.
    counter = 1000
    while len(set(per_sample(seen))) > 1:
        counter += 1
        seen.update(covered(leased(ledger, counter, "w", 1)))
        assert counter < 1000 + 3 * TOTAL, f"seed {seed}: {seen}"
    assert max(seen.values()) > 3


def end(
    ledger: FileLedger, attempt: AttemptId, worker: str, fate: str, seen: Counter[tuple[str, int]]
) -> None:
    """Let the attempt end so, and count what is done or listed by it."""
    if fate in ("commit", "skip"):
        seen.update(covered(ledger.ranges(attempt)))
        ledger.settle(attempt, is_skip=fate == "skip")
    elif fate == "refuse":
        before = len(ledger.skipped)
        ledger.refuse(attempt, attempts_max=2)
        for piece in list(ledger.skipped)[before:]:
            seen.update((FILES[piece.file].name, piece.first + i) for i in range(piece.count))
    else:
        ledger.give_back(attempt)
        if fate == "leave":
            ledger.left(worker)


def per_sample(seen: Counter[tuple[str, int]]) -> list[int]:
    return [seen[f.name, i] for f in FILES for i in range(f.samples)]


def test_a_lease_of_a_job_names_its_files_and_a_dead_workers_samples_come_next() -> None:
    files = [{"name": "a.tar", "samples": 40}, {"name": "b.tar", "samples": 40}]
    desk = Desk(job_of(2, data={"mode": "shards", "files": files})).start("b")
    lost = desk.leased("a")
    assert [(r.first, r.count) for r in lost.files] == [(0, 4)]
    desk.ask(m.ReleaseRequest("j", "a", is_leaving=True))
    leases = [desk.leased("b")]
    while leases[-1].files != lost.files:
        desk.stage(leases[-1])
        desk.folded()
        if desk.state.steps[desk.state.version].is_full():
            desk.finish(desk.state.version)
        leases.append(desk.leased("b"))
        assert len(leases) < 30
    assert all(slot.files for report in desk.reports for slot in report.slots)


def test_samples_of_a_skipped_step_are_listed() -> None:
    desk = Desk(job_of(1, data={"mode": "shards", "files": [{"name": "a.tar", "samples": 40}]})).start()
    desk.stage(desk.leased("a"))
    desk.folded()
    desk.prepare(0, is_finite=False)
    desk.from_all(m.Applied("j", 0, ()))
    status = desk.coordinator.status(desk.now)
    assert (status.skipped_samples, status.samples_skipped) == ((m.SampleRange(0, 4),), 4)


@pytest.mark.parametrize("seed", range(20))
def test_accounts_are_what_the_log_of_the_same_attempts_gives(seed: int) -> None:
    """From either, the samples that are left are the same, in the same order, and each is left once."""
    draw, ledger = random.Random(f"accounts {seed}"), ledger_of()
    settled: list[tuple[int, int, int, int]] = []
    live: list[AttemptId] = []
    for counter in range(1, 60):
        key = AttemptId(1, counter)
        ledger.lease(key, draw.choice("xyz"), 4)
        live.append(key)
        if draw.random() < 0.7:
            ended = live.pop(draw.randrange(len(live)))
            if draw.random() < 0.3:
                ledger.give_back(ended)
            else:
                settled += ledger.pieces(ended)
                ledger.settle(ended, is_skip=draw.random() < 0.2)
    begun, replayed, newest = ledger_of(), ledger_of(), ledger.accounts().epoch
    begun.begin_at(ledger.accounts())
    begun.recover(())
    replayed.recover(settled)
    left = begun.accounts().left
    assert begun.accounts().committed == ledger.accounts().committed
    whole = {
        (epoch, name, i)
        for epoch in range(newest + 1)
        for name in range(3)
        for i in range(FILES[name].samples)
    }
    taken = {(p[0], p[1], i) for p in settled for i in range(p[2], p[2] + p[3])}
    assert {(p[0], p[1], i) for p in left for i in range(p[2], p[2] + p[3])} == whole - taken
    if replayed.accounts().epoch == newest:
        assert _samples(left) == _samples(replayed.accounts().left)


def _samples(pieces: tuple[tuple[int, int, int, int], ...]) -> list[tuple[int, int, int]]:
    """In order; where a range is cut does not matter."""
    return [(epoch, file, i) for epoch, file, first, count in pieces for i in range(first, first + count)]
