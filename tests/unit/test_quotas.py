"""What one job may take of a fleet that others use: who is refused, who waits, and what is said."""

from __future__ import annotations

import math

import pytest
from tests.unit.desk import MODEL, Desk, job_of
from tests.unit.test_cli import Outcome

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.quotas import Quotas, parse_quotas
from sheepfold_server.core.state import Life
from sheepfold_server.shell.fleet import Fleet
from sheepfold_wire.errors import BadConfig, Overloaded, PreconditionError


def desk_with(quotas: Quotas) -> Desk:
    desk = Desk(job_of(slots=1))
    desk.coordinator = Coordinator(desk.job, 2, 1, "lineage", quotas=quotas)
    desk.state = desk.coordinator._state
    return desk


def quota(desk: Desk, name: str) -> m.Quota:
    return next(each for each in desk.coordinator.status(desk.now).quotas if each.name == name)


def test_model_that_is_too_large_is_refused_before_a_shard_hears_of_it() -> None:
    desk = desk_with(Quotas(parameters=19))
    with pytest.raises(PreconditionError, match=r"has 20 parameters, quota of a job: parameters = 19;"):
        desk.ask(m.CreateJobRequest("", desk.job.to_json(), MODEL.to_json()))
    assert desk.sent(m.OpenJob) == []
    assert quota(desk, "parameters").refused == 1
    just = desk_with(Quotas(parameters=20)).open()
    assert quota(just, "parameters") == m.Quota("parameters", 20.0, 20.0, 0)


def test_worker_too_many_waits_until_another_leaves() -> None:
    desk = desk_with(Quotas(workers=2)).start("b")
    with pytest.raises(Overloaded, match=r"job j has 2 workers, quota of a job: workers = 2; this one waits"):
        desk.attach("c")
    desk.attach("a")  # who is attached may attach again
    desk.ask(m.ReleaseRequest("j", "b", is_leaving=True))
    desk.attach("c")
    assert quota(desk, "workers") == m.Quota("workers", 2.0, 2.0, 1)


def test_next_step_is_not_leased_before_its_time_and_says_so() -> None:
    desk = desk_with(Quotas(steps_per_second=2.0)).start()
    desk.wait(1.0)
    desk.fill()
    desk.finish(0)
    assert desk.lease("a") is None
    assert desk.coordinator.status(desk.now).waiting_for == "0.5 s, for the quota steps_per_second = 2"
    desk.wait(0.4)
    assert desk.lease("a") is None
    desk.wait(0.1)
    assert desk.leased("a").step == 1


def test_without_a_quota_nothing_waits() -> None:
    desk = desk_with(Quotas()).start()
    desk.fill()
    desk.finish(0)
    assert desk.leased("a").step == 1
    assert quota(desk, "steps_per_second").max == math.inf


def test_one_job_too_many_is_refused_with_the_quota() -> None:
    fleet = Fleet(1, quotas=Quotas(jobs=1))
    for name, is_refused in (("one", False), ("one", False), ("two", True)):
        job = job_of(name=name)
        answer = fleet.create(m.CreateJobRequest("", job.to_json())) if not is_refused else None
        assert answer is None or answer.exception() is None
        if is_refused:
            with pytest.raises(PreconditionError, match=r"1 jobs exist already, quota: jobs = 1; delete one"):
                fleet.create(m.CreateJobRequest("", job.to_json()))


def test_job_for_which_others_leave_no_room_is_refused_when_it_is_created() -> None:
    fleet, sent = Fleet(1), list[m.ShardCommand]()
    send = sent.append
    fleet.link_up(m.Hello(0, 0, 1, "h:0", "eager/cpu", 100), send)

    def create(name: str) -> None:
        fleet.create(m.CreateJobRequest("", job_of(name=name).to_json(), MODEL.to_json())).result(1)

    create("one")
    (told,) = (command for command in sent if isinstance(command, m.OpenJob))
    fleet.report(0, m.JobOpened("one", 3, -1, told.term), send)
    assert fleet.job("one").core.staging_room == 3
    with pytest.raises(
        PreconditionError, match=r"3 parts of job one, too few to be shared by 2 jobs that need 2"
    ):
        create("two")


def test_job_that_has_ended_takes_no_share() -> None:
    fleet = Fleet(1)
    for name in ("one", "two"):
        fleet.create(m.CreateJobRequest("", job_of(name=name).to_json())).result(1)
    first = fleet.job("one").core._state.quotas
    assert first.sharing == 2
    fleet.call(m.ControlRequest("two", "stop", "the test")).result(1)
    fleet.tick()
    assert first.sharing == 1
    fleet.call(m.ControlRequest("one", "stop", "the test")).result(1)
    fleet.tick()
    assert fleet.status("one").quotas  # also once nobody shares anything


def test_job_that_others_leave_too_little_of_a_shard_is_paused_with_the_number() -> None:
    desk = Desk(part_slots=5)
    desk.tell(e.Tick(jobs=3))
    desk.open()
    assert desk.state.life is Life.PAUSED
    assert "(100 bytes, to be shared by 3 jobs) holds 5 parts of job j, 6 are needed" in desk.state.why


def test_parts_that_may_be_staged_are_told_beside_those_that_are_reserved() -> None:
    desk = Desk(part_slots=8).start()
    desk.lease("a")
    assert quota(desk, "staged_parts") == m.Quota("staged_parts", 8.0, 1.0, 0)
    desk.tell(e.Tick(jobs=2))
    assert quota(desk, "staged_parts") == m.Quota("staged_parts", 4.0, 1.0, 0)


def test_quotas_are_read_with_units() -> None:
    assert parse_quotas([]) == Quotas()
    read = parse_quotas(["parameters=1.5G", "workers=2K", "steps_per_second=0.5", "jobs=3"])
    assert read == Quotas(jobs=3, parameters=1_500_000_000, workers=2000, steps_per_second=0.5)


@pytest.mark.parametrize(
    "text", ["", "workers", "workers=", "workers=0", "workers=1.5", "cpu=3", "jobs=-1", "jobs=3T"]
)
def test_quota_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match="with one of jobs, parameters, workers, steps_per_second"):
        parse_quotas([text])
    assert "--quota" in Outcome("coordinator", "--shards", "1", "--quota", text or "=").refusal()
