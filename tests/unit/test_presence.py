"""sheepfold_server.core.presence: heartbeats that are held, and what a broken one says of its worker."""

from __future__ import annotations

import pytest
from tests.unit.desk import Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.presence import GONE_SECONDS
from sheepfold_wire.errors import WorkerUnknown


def hold(desk: Desk, caller: int, worker: str = "a", ends_heard: int = 0, seconds: float = 2.0) -> None:
    """A heartbeat that the coordinator may hold so long."""
    request = m.HeartbeatRequest("j", worker, ends_heard=ends_heard, wait_seconds=seconds)
    desk.tell(e.FromWorker(caller, request))


def test_a_heartbeat_is_held_for_as_long_as_it_says() -> None:
    desk = Desk().start()
    hold(desk, 101)
    desk.wait(1.5)
    assert desk.answer_of(101) is None
    desk.wait(0.75)
    reply = desk.answer_of(101)
    assert isinstance(reply, m.HeartbeatReply)
    assert reply.held_seconds == 2.25  # ended by the clock's next tick


def test_an_attempt_that_ends_is_told_at_once() -> None:
    desk = Desk().start()
    lease = desk.leased("a")
    hold(desk, 101)
    desk.now += 0.5
    desk.ask(m.ReleaseRequest("j", "a", reason="closed"))
    reply = desk.answer_of(101)
    assert isinstance(reply, m.HeartbeatReply)
    assert [(end.attempt, end.reason) for end in reply.ends] == [(lease.attempt, "closed")]
    hold(desk, 102, ends_heard=reply.ends[-1].number)
    assert desk.answer_of(102) is None  # it was heard of: told once


def test_that_an_attempt_counts_is_told_by_the_next_call_and_ends_no_heartbeat() -> None:
    """Else each slot of a fleet would cost its coordinator one more call."""
    desk = Desk(job_of(1)).start()
    hold(desk, 101)
    lease = desk.leased("a")
    desk.stage(lease)
    desk.folded()
    desk.finish(0)
    assert desk.answer_of(101) is None
    told = desk.lease_reply("a").ends
    assert [(end.attempt, end.is_committed) for end in told] == [(lease.attempt, True)]
    desk.wait(2.25)
    reply = desk.answer_of(101)
    assert isinstance(reply, m.HeartbeatReply)
    assert reply.ends == told


def test_a_worker_that_leaves_is_no_longer_held() -> None:
    desk = Desk().start()
    hold(desk, 101)
    desk.ask(m.ReleaseRequest("j", "a", is_leaving=True))
    with pytest.raises(WorkerUnknown):
        desk.answer_of(101)


def test_slot_of_a_worker_whose_connection_broke_is_leased_at_once() -> None:
    """Nothing is known of durations yet, and its first slot is never late: that does not matter here."""
    desk = Desk(job_of(1)).start("b")
    lease = desk.leased("a")
    hold(desk, 101)
    assert desk.lease("b") is None
    desk.tell(e.CallLost(101))
    assert desk.leased("b").slot == lease.slot


def test_a_worker_whose_connection_broke_is_forgotten_after_a_second() -> None:
    desk = Desk(job_of(4, leases={"seconds": 1000.0})).start("b")
    lease = desk.leased("a")
    hold(desk, 101)
    desk.tell(e.CallLost(101))
    desk.wait(GONE_SECONDS - 0.1)
    assert desk.ended() == []
    desk.wait(0.2)
    assert desk.ended() == [(lease.attempt, "worker gone")]
    assert desk.state.workers.get("a") is None
    assert desk.state.attempts.drops == {"worker gone": 1}
    assert "its connection broke" in desk.state.history.events[-1].text


def test_a_worker_that_calls_again_keeps_its_slot_and_the_first_of_two_wins() -> None:
    desk = Desk(job_of(1)).start("b")
    mine = desk.leased("a")
    hold(desk, 101)
    desk.tell(e.CallLost(101))
    other = desk.leased("b")
    hold(desk, 102)
    desk.wait(5 * GONE_SECONDS)
    assert desk.ended() == []
    desk.stage(mine)
    assert desk.ended() == [(other.attempt, "superseded")]


def test_a_broken_call_that_was_answered_says_nothing() -> None:
    desk = Desk().start()
    hold(desk, 101, seconds=0.0)
    desk.tell(e.CallLost(101))
    desk.wait(5 * GONE_SECONDS)
    assert desk.state.workers.get("a") is not None


def test_a_reader_whose_connection_broke_is_forgotten_without_an_event() -> None:
    desk = Desk().start()
    desk.attach("r", is_reader=True)
    before = len(desk.state.history.events)
    hold(desk, 101, "r")
    desk.tell(e.CallLost(101))
    desk.wait(GONE_SECONDS)
    assert desk.state.workers.get("r") is None
    assert len(desk.state.history.events) == before


def test_a_silent_worker_whose_connection_stands_is_forgotten_after_three_leases() -> None:
    desk = Desk(job_of(4, leases={"seconds": 2.0})).start()
    hold(desk, 101, seconds=60.0)
    desk.wait(6.1)
    with pytest.raises(WorkerUnknown):
        desk.answer_of(101)
