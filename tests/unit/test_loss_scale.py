"""sheepfold_server.core.loss_scale, and how steps use it: one scale for all workers."""

from __future__ import annotations

import pytest
from tests.unit.desk import Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core.loss_scale import SCALE_MAX, LossScale
from sheepfold_wire.errors import BadConfig

SCALED = {"loss_scale": {"initial": 1024.0, "growth_steps": 2}}


def test_an_overflow_halves_and_growth_steps_applied_steps_double() -> None:
    scale = LossScale(8.0)
    seen = []
    for overflowed, is_skip in ((True, True), (False, False), (False, True), (False, False), (False, False)):
        scale.committed(scale.value, overflowed, is_skip, growth_steps=2)
        seen.append(scale.value)
    assert seen == [4.0, 4.0, 4.0, 8.0, 8.0]  # a step skipped for another reason does not count


def test_the_scale_stays_between_1_and_its_largest() -> None:
    low, high = LossScale(1.0), LossScale(SCALE_MAX)
    low.committed(1.0, True, True, 1)
    high.committed(SCALE_MAX, False, False, 1)
    assert (low.value, high.value) == (1.0, SCALE_MAX)


def test_steps_that_were_open_at_the_larger_scale_halve_it_once() -> None:
    scale = LossScale(8.0)
    for _ in range(3):
        scale.committed(8.0, True, True, 2)
    assert scale.value == 4.0


def test_a_lease_says_its_steps_scale() -> None:
    assert Desk(job_of(**SCALED)).start().leased("a").loss_scale == 1024.0
    assert Desk().start().leased("a").loss_scale == 0.0


def test_an_overflow_skips_the_step_at_once_and_the_next_one_has_half_the_scale() -> None:
    desk = Desk(job_of(**SCALED)).start("b")
    lease, other = desk.leased("a"), desk.leased("b")
    desk.refuse(lease)
    assert [(c.step, c.is_skip) for c in desk.sent(m.Commit)] == [(0, True)]
    desk.from_all(m.Applied("j", 0, ()))
    assert desk.reports[0].skip_reason == (
        "slot 0 overflowed at loss scale 1024: 3 non-finite elements in tensor a"
    )
    assert desk.reports[0].loss_scale == 1024.0
    assert (other.attempt, "step skipped") in desk.ended()
    again = desk.leased("a")
    assert (again.step, again.loss_scale) == (1, 512.0)


def test_slots_of_one_step_have_one_scale_whatever_happens_meanwhile() -> None:
    desk = Desk(job_of(2, batch={"delay": 1}, **SCALED)).start("b", "c")
    first, second, early = desk.leased("a"), desk.leased("b"), desk.leased("c")
    assert (first.step, second.step, early.step) == (0, 0, 1)
    desk.refuse(first)
    desk.from_all(m.Applied("j", 0, ()))
    late = desk.leased("a")
    assert (late.step, early.loss_scale, late.loss_scale) == (1, 1024.0, 1024.0)


def test_nothing_is_leased_of_a_step_that_will_be_skipped() -> None:
    desk = Desk(job_of(2, batch={"delay": 1}, **SCALED)).start("b", "c")
    ahead = [desk.leased(worker) for worker in "abc"][-1]
    desk.refuse(ahead)
    assert ahead.step == 1
    assert not desk.sent(m.Commit)  # its turn comes after step 0
    assert desk.lease("c") is None


def test_at_scale_1_a_slot_is_tried_again_as_in_a_job_without_one() -> None:
    desk = Desk(job_of(loss_scale={"initial": 1.0, "growth_steps": 5})).start()
    for _ in range(2):
        desk.refuse(desk.leased("a"))
    assert not desk.sent(m.Commit)
    desk.refuse(desk.leased("a"))
    assert desk.sent(m.Commit)[0].is_skip


def test_the_scale_doubles_after_applied_steps() -> None:
    desk = Desk(job_of(1, **SCALED)).start()
    scales = []
    for step in range(4):
        lease = desk.leased("a")
        scales.append(lease.loss_scale)
        desk.stage(lease)
        desk.finish(step)
    assert scales == [1024.0, 1024.0, 2048.0, 2048.0]


def test_two_slots_that_overflow_halve_the_scale_once() -> None:
    desk = Desk(job_of(2, **SCALED)).start("b")
    leases = [desk.leased(worker) for worker in "ab"]
    desk.is_durable = False
    for lease in leases:
        desk.refuse(lease)
    desk.is_durable = True
    assert desk.state.steps[0].skip_reason.startswith("slot 0 overflowed")
    assert desk.state.steps[0].overflowed


def test_an_asynchronous_job_cannot_have_one() -> None:
    with pytest.raises(BadConfig, match="loss_scale in an asynchronous job"):
        job_of(1, batch={"max_staleness": "unbounded"}, **SCALED)
