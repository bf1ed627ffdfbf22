"""sheepfold_server.core.slot_norms and .history: what is told of single contributions, and of events."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.unit.desk import Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.history import EVENTS_KEPT, History
from sheepfold_server.core.reports import job_status
from sheepfold_server.core.slot_norms import slot_norms
from sheepfold_wire.ids import AttemptId

BLOCKS_OF_SHARD, SLICE_OF_BLOCK = ((0, 2), (1, 3)), (0, 0, 1, 2)


def attempt_with(squares: dict[int, tuple[float, ...]]) -> Attempt:
    return Attempt(AttemptId(1, 1), "a", False, 0, 0, 0, 0.0, 9.0, False, squares=squares)


def test_norms_are_those_of_the_gradients_whichever_shard_held_their_blocks() -> None:
    gradients = np.random.default_rng(7).normal(size=(3, 4, 50))  # (slot, block, element)
    squares = (gradients**2).sum(-1)
    attempts = [
        attempt_with({s: tuple(slot[list(blocks)]) for s, blocks in enumerate(BLOCKS_OF_SHARD)})
        for slot in squares
    ]
    norms = slot_norms(attempts, BLOCKS_OF_SHARD, SLICE_OF_BLOCK, frozenset())
    assert norms.of_slot == pytest.approx(np.linalg.norm(gradients.reshape(3, -1), axis=1))
    of_first = np.sqrt((np.linalg.norm(gradients[:, :2].reshape(3, -1), axis=1) ** 2).mean())
    assert norms.of_slice[0] == pytest.approx(of_first)
    assert norms.root_mean_square == pytest.approx(math.sqrt(squares.sum((1,)).mean()))


def test_frozen_blocks_are_in_no_norm() -> None:
    attempts = [attempt_with({0: (1.0, 1.0), 1: (9.0, 1.0)})]
    norms = slot_norms(attempts, BLOCKS_OF_SHARD, SLICE_OF_BLOCK, frozenset({1}))
    assert norms.of_slot == (math.sqrt(3.0),)
    assert norms.of_slice == {0: 1.0, 1: 1.0, 2: 1.0}


def test_without_the_word_of_every_shard_there_are_none() -> None:
    norms = slot_norms([attempt_with({0: (1.0, 1.0)})], BLOCKS_OF_SHARD, SLICE_OF_BLOCK, frozenset())
    assert (norms.of_slot, norms.root_mean_square) == ((), 0.0)


def test_a_report_has_the_norm_of_each_slot_and_the_time_of_each_shard() -> None:
    desk = Desk(job_of(2)).start("b")
    for worker in "ab":
        desk.stage(desk.leased(worker))
    desk.prepare(0)
    for shard in desk.shards:
        desk.now += 1.0
        desk.from_shard(shard, m.Applied("j", 0, (), 0.25, 0.5, 0.0, 100, 200, 1 << 20, 3))
    report = desk.reports[0]
    assert [slot.gradient_norm for slot in report.slots] == [math.sqrt(2.0)] * 2  # two blocks of square 1
    assert report.slot_gradient_norm == pytest.approx(math.sqrt(2.0))
    assert [slot.host for slot in report.slots] == ["host", "host"]
    assert report.shards == tuple(m.ShardStep(shard, 0.25, 0.5, 100, 200) for shard in desk.shards)
    status = job_status(desk.state)
    assert [(shard.memory_bytes, shard.queue) for shard in status.shards] == [(1 << 20, 3)] * 2


# --- events, and why attempts were dropped ---------------------------------------------------------------


def events_of(desk: Desk) -> list[tuple[str, str]]:
    return [(event.kind, event.text) for event in job_status(desk.state).events]


def test_what_happens_to_a_job_is_told_with_its_age_and_its_step() -> None:
    desk = Desk(job_of(1)).start()
    desk.now += 5.0
    desk.ask(m.ConfigChangeRequest("r", "j", 3, '{"optimizer.lr.peak": 0.5}', "ann"))
    desk.ask(m.ReleaseRequest("j", "a", (), True, "SIGTERM"))
    kinds = [kind for kind, _ in events_of(desk)]
    assert kinds == ["attach", "state", "change", "leave"]
    change, leave = job_status(desk.state).events[-2:]
    assert (change.step, change.author, change.age_seconds) == (3, "ann", 0.0)
    assert "SIGTERM" in leave.text
    assert job_status(desk.state).events[0].age_seconds == pytest.approx(5.0)


def test_a_refusal_and_a_skip_are_events_and_are_counted_for_the_worker() -> None:
    desk = Desk().start()
    for _ in range(3):
        desk.refuse(desk.leased("a"))
    desk.from_all(m.Applied("j", 0, ()))
    status = job_status(desk.state)
    assert [kind for kind, _ in events_of(desk)][-4:] == ["refusal"] * 3 + ["skip"]
    assert status.workers[0].refused == 3
    assert status.drops == (m.Drop("refused", 3),)
    assert sum(drop.count for drop in status.drops) == status.counts.dropped


def test_what_a_worker_says_when_it_hands_back_does_not_become_a_cause_of_its_own() -> None:
    desk = Desk().start("b")
    desk.leased("a")
    desk.ask(m.ReleaseRequest("j", "a", (), False, "anything: at all"))
    desk.leased("b")
    desk.wait(11.0)
    assert job_status(desk.state).drops == (m.Drop("expired", 1), m.Drop("handed back", 1))


def test_only_the_newest_events_are_kept_and_their_numbers_go_on() -> None:
    history = History()
    for number in range(EVENTS_KEPT + 5):
        history.add(float(number), 0, "state", f"event {number}")
    told = history.told(1_000.0)
    assert (len(told), told[0].number, told[-1].number) == (EVENTS_KEPT, 6, EVENTS_KEPT + 5)


def test_a_heartbeat_tells_what_the_worker_measured() -> None:
    desk = Desk().start()
    usage = m.WorkerUsage(8.0, 0.5, 0.002, (m.ShardTraffic(0, 100, 0.1, 200, 0.2),))
    desk.ask(m.HeartbeatRequest("j", "a", (), 0, usage))
    assert job_status(desk.state).workers[0].usage == usage
