"""sheepfold_server.core.granting: which slot is leased next, the lease window, and when leases end."""

from __future__ import annotations

from tests.unit.desk import Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e


def beat(desk: Desk, lease: m.Lease, done: int, worker: str = "a") -> None:
    desk.ask(m.HeartbeatRequest("j", worker, (m.AttemptProgress(lease.attempt, done),)))


def practised(slots: int = 4, part_slots: int = 8, **leases: object) -> Desk:
    """Workers `a` and `b` have staged eight slots in one second each: durations are known."""
    sections = {"leases": {"seconds": 10.0, **leases}, "stop": {"steps": 9}}
    desk = Desk(job_of(slots, **sections), part_slots=part_slots).start("b")
    for step in range(8 // slots):
        for number in range(slots):
            lease = desk.leased("ab"[number % 2])
            desk.now += 1.0
            desk.stage(lease)
            desk.folded()
        desk.finish(step)
    return desk


def test_slots_are_leased_lowest_first() -> None:
    desk = Desk().start("b", "c")
    assert [desk.leased(worker).slot for worker in "abc"] == [0, 1, 2]


def test_slot_of_an_ended_attempt_is_leased_before_higher_ones() -> None:
    desk = Desk().start("b", "c")
    desk.leased("a")
    desk.leased("b")
    desk.ask(m.ReleaseRequest("j", "a"))
    assert desk.leased("c").slot == 0


def test_every_lease_is_announced_to_every_shard() -> None:
    desk = Desk().start()
    lease = desk.leased("a")
    for shard in desk.shards:
        assert desk.sent(m.Expect, shard)[-1] == m.Expect("j", lease.attempt, False, 0)


# --- the lease window ------------------------------------------------------------------------------------


def test_ordinary_leases_use_all_places_but_one() -> None:
    desk = Desk(part_slots=3).start("b", "c")
    assert desk.lease("a") is not None
    assert desk.lease("b") is not None
    assert desk.lease("c") is None


def test_who_waits_for_room_is_told_which_shard_lacks_it_and_what_helps() -> None:
    desk = Desk(part_slots=2).start("b")
    desk.leased("a")
    assert desk.lease("b") is None
    told = desk.coordinator.status(desk.now).waiting_for
    assert "; 1 at a time can have a slot: the staging budget of shard 0 holds 2 contributions" in told
    assert "add shards, or start shards with --staging-bytes" in told


def test_more_workers_than_shards_have_room_for_are_told_once_for_each_number() -> None:
    """With a step's slots for all of them: else some have nothing to do whatever the room."""
    desk = Desk(part_slots=3).start("b")

    def told() -> list[str]:
        return [event.text for event in desk.state.history.events if "contributions" in event.text]

    desk.leased("a")
    desk.leased("b")
    assert not told()
    desk.attach("c")
    for _ in range(2):
        desk.lease("c")
    assert len(told()) == 1
    assert (
        "3 workers are attached, 2 at a time can have a slot: the staging budget of shard 0 holds 3"
        in told()[0]
    )


def test_lack_of_room_is_not_told_where_another_slot_could_be_leased() -> None:
    desk = Desk(part_slots=3).start("b")
    desk.leased("a")
    assert "staging budget" not in desk.coordinator.status(desk.now).waiting_for


def test_window_is_the_least_room_of_any_shard() -> None:
    desk = Desk(part_slots=8).open()
    desk.from_shard(1, m.JobOpened("j", 3, -1, desk.state.term))
    assert desk.state.window() == 3


def test_jobs_share_the_room_of_the_shards() -> None:
    desk = Desk(part_slots=9).start(*"bcdefgh")
    desk.tell(e.Tick(jobs=2))
    assert desk.state.window() == 4
    assert [desk.lease(worker) is not None for worker in "abcd"] == [True, True, True, False]
    desk.tell(e.Tick(jobs=1))
    assert desk.lease("d") is not None


def test_job_keeps_the_two_places_that_no_job_can_do_without() -> None:
    desk = Desk(part_slots=5).start("b")
    desk.tell(e.Tick(jobs=4))
    assert desk.state.window() == 2
    assert desk.lease("a") is not None
    assert desk.lease("b") is None


def test_lowest_slot_is_leased_again_by_a_job_that_holds_more_than_its_share_of_late() -> None:
    """All above it wait for it, so that nothing else could ever make room."""
    desk = Desk(part_slots=4).start("b", "c")
    lowest, *others = (desk.leased(worker) for worker in "abc")
    for lease in others:
        desk.stage(lease)
    desk.tell(e.Tick(jobs=2))
    desk.ask(m.ReleaseRequest("j", "a", (lowest.attempt,)))
    assert desk.leased("b").slot == lowest.slot
    assert desk.lease("c") is None


def test_last_place_is_for_the_lowest_slot_again() -> None:
    """Its holder is late, the window is full: another worker takes the same slot, none a higher one."""
    desk = practised(slots=8, part_slots=2)
    assert desk.leased("a").slot == 0
    desk.now += 3.1
    assert desk.leased("b").slot == 0
    desk.attach("c")
    assert desk.lease("c") is None


def test_staged_slot_that_waits_for_a_lower_one_keeps_its_place() -> None:
    desk = Desk(part_slots=3).start("b", "c")
    desk.leased("a")
    desk.stage(desk.leased("b"))
    assert desk.lease("c") is None


def test_admitted_slot_keeps_its_place_until_every_shard_has_folded_it() -> None:
    desk = Desk(part_slots=2).start("b")
    desk.stage(desk.leased("a"))
    desk.from_shard(0, m.Folded("j", 0, 1, True))
    assert desk.lease("b") is not None, "the lowest slot may use the last place"
    desk.attach("c")
    assert desk.lease("c") is None


def test_late_news_of_a_fold_makes_no_room_that_is_not_there() -> None:
    """After a restart an old Folded may still arrive: the window must not grow by it."""
    desk = Desk(part_slots=3).start("b", "c")
    desk.stage(desk.leased("a"))
    desk.stage(desk.leased("a"))
    desk.connect(0, is_resumed=True)
    desk.opened(0, version=0)
    desk.from_all(m.Folded("j", 0, 2, True))
    assert [desk.lease(worker) is not None for worker in "abc"] == [True, True, False]


# --- late slots ------------------------------------------------------------------------------------------


def test_late_slot_is_leased_to_another_worker() -> None:
    desk = practised()
    slow = desk.leased("a")
    while (lease := desk.lease("b")) is not None:
        desk.stage(lease)
    desk.now += 3.1
    again = desk.leased("b")
    assert (again.slot, again.attempt == slow.attempt) == (slow.slot, False)


def test_late_slot_is_never_leased_to_its_own_holder() -> None:
    desk = practised(slots=1)
    lease = desk.leased("a")
    desk.now += 5.0
    assert desk.lease("a", lease) is None


def test_slot_is_leased_at_most_twice_at_a_time() -> None:
    desk = practised(slots=1)
    desk.attach("c")
    desk.leased("a")
    desk.now += 5.0
    assert desk.lease("b") is not None
    desk.now += 5.0
    assert desk.lease("c") is None


def test_lateness_is_a_multiple_of_the_usual_duration() -> None:
    desk = practised(slots=1, straggler_factor=5.0)
    desk.leased("a")
    desk.now += 4.9
    assert desk.lease("b") is None
    desk.now += 0.2
    assert desk.lease("b") is not None


def test_first_slot_of_a_worker_is_never_called_late() -> None:
    """It loads data and compiles."""
    desk = practised(slots=1)
    desk.attach("c")
    desk.leased("c")
    desk.now += 9.0
    assert desk.lease("b") is None


def test_nothing_is_late_before_durations_are_known() -> None:
    desk = Desk(job_of(1)).start("b")
    desk.leased("a")
    desk.now += 9.0
    assert desk.lease("b") is None


# --- expiry ----------------------------------------------------------------------------------------------


def test_lease_without_a_sign_of_life_expires() -> None:
    desk = Desk().start("b")
    lease = desk.leased("a")
    desk.wait(10.0)
    assert desk.ended() == [(lease.attempt, "expired")]
    assert desk.leased("b").slot == 0


def test_heartbeat_with_progress_renews() -> None:
    desk = practised()
    lease = desk.leased("a")
    desk.now += 6.0
    beat(desk, lease, 1)
    desk.wait(6.0)
    assert desk.state.attempts.get(lease.attempt) is not None


def test_heartbeat_without_progress_does_not_renew() -> None:
    desk = practised()
    lease = desk.leased("a")
    beat(desk, lease, 1)
    desk.now += 6.0
    beat(desk, lease, 1)
    desk.wait(6.0)
    assert desk.state.attempts.get(lease.attempt) is None


def test_first_slot_that_hangs_is_given_up_after_twenty_leases() -> None:
    """Its heartbeat thread goes on beating: without an end to the patience the job would stand still."""
    desk = Desk().start()
    lease = desk.leased("a")
    for _ in range(100):
        beat(desk, lease, 0)
        desk.wait(5.0)
    assert desk.state.attempts.get(lease.attempt) is None


def test_first_slot_of_a_worker_is_renewed_without_progress() -> None:
    desk = Desk().start()
    lease = desk.leased("a")
    for _ in range(4):
        desk.now += 6.0
        beat(desk, lease, 0)
    desk.wait(6.0)
    assert desk.state.attempts.get(lease.attempt) is not None


def test_attempt_a_worker_does_not_name_expires() -> None:
    """It never heard of it, or has given it up: a heartbeat must not keep it for ever."""
    desk = Desk().start()
    lease = desk.leased("a")
    desk.now += 6.0
    desk.ask(m.HeartbeatRequest("j", "a"))
    desk.wait(6.0)
    assert desk.state.attempts.get(lease.attempt) is None


def test_slow_model_is_given_thrice_its_usual_time() -> None:
    desk = Desk(job_of(1, leases={"seconds": 2.0}, stop={"steps": 20})).start()
    for step in range(8):
        lease = desk.leased("a")
        for done in range(1, 7):
            desk.now += 1.0
            beat(desk, lease, done)
        desk.stage(lease)
        desk.finish(step)
    lease = desk.leased("a")
    lived = 0
    while desk.state.attempts.get(lease.attempt) is not None:
        beat(desk, lease, 1)  # it is alive, but gets no further
        desk.wait(1.0)
        lived += 1
    assert lived == 18


def test_staged_contribution_does_not_expire() -> None:
    desk = Desk().start("b")
    desk.leased("a")
    lease = desk.leased("b")
    desk.stage(lease)
    desk.wait(100.0)
    assert desk.state.attempts.get(lease.attempt) is not None


# --- delay, staleness, asynchronous ----------------------------------------------------------------------


def test_delay_opens_steps_ahead_at_exactly_the_version_due() -> None:
    desk = Desk(job_of(1, batch={"delay": 2})).start("b", "c")
    leases = [desk.leased(worker) for worker in "abc"]
    assert [(lease.step, lease.base_version) for lease in leases] == [(0, 0), (1, 0), (2, 0)]
    desk.stage(leases[0])
    desk.finish(0)
    assert (desk.leased("a").step, desk.state.version) == (3, 1)
    assert desk.sent(m.Expect)[-1].step == 3


def test_delayed_step_keeps_its_version_while_newer_ones_appear() -> None:
    desk = Desk(job_of(1, batch={"delay": 1})).start("b")
    desk.stage(desk.leased("a"))
    desk.finish(0)
    desk.stage(desk.leased("a"))
    desk.finish(1)
    assert [(lease.step, lease.base_version) for lease in (desk.leased("a"), desk.leased("b"))] == [
        (2, 1),
        (3, 2),
    ]


def test_bounded_staleness_leases_the_newest_version() -> None:
    desk = Desk(job_of(1, batch={"max_staleness": 1})).start("b")
    desk.stage(desk.leased("a"))
    assert desk.leased("b").base_version == 0
    desk.finish(0)
    assert desk.leased("a").base_version == 1


def test_steps_beyond_the_last_are_not_opened() -> None:
    desk = Desk(job_of(1, batch={"delay": 4}, stop={"steps": 2})).start("b", "c")
    assert [desk.lease(worker) is not None for worker in "abc"] == [True, True, False]


def asynchronous(steps: int = 5, **leases: object) -> Desk:
    batch = {"max_staleness": "unbounded"}
    return Desk(job_of(1, batch=batch, stop={"steps": steps}, leases={"seconds": 10.0, **leases}))


def test_asynchronous_lease_names_samples_and_no_step() -> None:
    desk = asynchronous().start("b")
    leases = [desk.leased("a"), desk.leased("b")]
    assert [(lease.step, lease.sample_start) for lease in leases] == [(None, 0), (None, 4)]


def test_asynchronous_step_is_given_in_order_of_arrival() -> None:
    desk = asynchronous().start("b")
    first, second = desk.leased("a"), desk.leased("b")
    desk.stage(second)
    desk.finish(0)
    desk.stage(first)
    assert [(admit.step, admit.attempt) for admit in desk.sent(m.Admit)] == [
        (0, second.attempt),
        (1, first.attempt),
    ]


def test_asynchronous_worker_is_not_leased_more_until_what_it_gave_is_committed() -> None:
    """Shards that are slower than workers would fall behind without end; here a shard has not applied step "
    "0."""
    desk = asynchronous().start("b")
    first, second = desk.leased("a"), desk.leased("b")
    desk.stage(first)
    desk.stage(second)
    assert desk.lease("b") is None
    desk.finish(0)
    assert desk.lease("a") is not None
    assert desk.lease("b") is None
    desk.finish(1)
    assert desk.lease("b") is not None


def test_asynchronous_samples_of_an_expired_lease_are_leased_again() -> None:
    desk = asynchronous().start("b")
    desk.leased("a")
    desk.wait(10.0)
    assert desk.leased("b").sample_start == 0


def test_asynchronous_job_leases_as_many_samples_as_it_has_steps() -> None:
    desk = asynchronous(steps=2).start("b", "c")
    assert [desk.lease(worker) is not None for worker in "abc"] == [True, True, False]


def test_asynchronous_sample_refused_too_often_skips_one_step() -> None:
    desk = asynchronous(steps=2).start("b")
    for _ in range(3):
        desk.refuse(desk.leased("a"))
    desk.from_all(m.Applied("j", 0, ()))
    desk.stage(desk.leased("a"))
    desk.finish(1)
    assert [report.is_skip for report in desk.reports] == [True, False]
    assert desk.coordinator.has_ended


def test_asynchronous_skip_waits_for_a_shard_that_is_away_and_takes_no_contribution() -> None:
    """A step given up while a link is down must not swallow the next contribution with it."""
    desk = asynchronous(steps=2).start("b")
    for _ in range(2):
        desk.refuse(desk.leased("a"))
    bad = desk.leased("a")
    desk.tell(e.ShardDown(1))
    desk.refuse(bad)
    desk.connect(1, is_resumed=True)
    desk.opened(1, version=0)
    assert desk.sent(m.Commit)[-1].is_skip
    desk.from_all(m.Applied("j", 0, ()))
    desk.stage(desk.leased("b"))
    desk.finish(1)
    assert [report.is_skip for report in desk.reports] == [True, False]


def test_asynchronous_part_lost_by_a_shard_is_leased_again() -> None:
    desk = asynchronous().start("b")
    lease = desk.leased("a")
    desk.stage(lease)
    desk.from_shard(0, m.PartLost("j", 0, 0))
    assert desk.leased("b").sample_start == lease.sample_start


# --- workers that load samples ahead ---------------------------------------------------------------------


def ahead(desk: Desk, worker: str, *holding: m.Lease) -> m.Lease | None:
    request = m.LeaseRequest("j", worker, tuple(lease.attempt for lease in holding), plans_ahead=True)
    reply = desk.ask(request)
    assert isinstance(reply, m.LeaseReply)
    return reply.lease


def test_a_worker_that_loads_ahead_is_told_its_next_slot_and_gets_it() -> None:
    desk = Desk(job_of(8, stop={"steps": 3}), part_slots=20).start("b", "c")
    guesses: dict[str, int] = {}
    for turn in range(24):
        worker = "abc"[turn % 3]
        lease = ahead(desk, worker)
        assert lease is not None
        if turn >= 6:  # the first turns find out how many workers there are
            assert lease.sample_start == guesses[worker], f"turn {turn}"
        guesses[worker] = lease.sample_start + lease.stride
        desk.stage(lease)
        desk.folded()
        if desk.state.steps[desk.state.version].is_full():
            desk.finish(desk.state.version)


def test_expected_slots_of_a_worker_that_does_not_come_are_taken_by_others() -> None:
    desk = Desk(job_of(8), part_slots=20).start("b")
    ahead(desk, "a")
    taken = []
    while (lease := ahead(desk, "b")) is not None:
        taken.append(lease.slot)
        desk.stage(lease)
        desk.folded()
    assert sorted(slot for slot in taken if slot is not None) == [1, 2, 3, 4, 5, 6, 7]


def test_expected_slots_leave_the_last_place_of_the_window_to_the_lowest_slot() -> None:
    """Else staged slots would wait for a lowest one that nobody may compute."""
    desk = Desk(job_of(8), part_slots=3).start("b")
    first = ahead(desk, "a")
    assert first is not None
    second = ahead(desk, "b")
    assert second is not None
    desk.ask(m.ReleaseRequest("j", "a"))
    expected = ahead(desk, "a", first)
    assert expected is not None
    assert expected.slot == 2
    for lease in (second, expected):
        desk.stage(lease)
    lowest = ahead(desk, "a")
    assert lowest is not None
    assert lowest.slot == 0


def test_workers_that_do_not_load_ahead_are_told_no_stride() -> None:
    assert Desk().start().leased("a").stride == 0


def test_an_asynchronous_worker_is_told_how_far_apart_its_samples_probably_are() -> None:
    asynchronous = {"max_staleness": "unbounded"}
    desk = Desk(job_of(1, asynchronous), part_slots=20).start("b", "c")
    lease = ahead(desk, "b")
    assert lease is not None
    assert lease.stride == 12
