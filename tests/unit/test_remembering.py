"""A coordinator that reads its log knows what the one before knew, as far as it was decided."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.desk import Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.records import CoordinatorRecord
from sheepfold_server.core.state import JobState, Life
from sheepfold_server.shell.job_log import VALUES
from sheepfold_wire.job import Job

FILES = [{"name": "a", "samples": 10}, {"name": "b", "samples": 7}]


def records_of(desk: Desk) -> list[CoordinatorRecord]:
    """What is in the log, through the text it is kept as."""
    written = [effect.record for effect in desk.effects if isinstance(effect, e.Persist)]
    return [VALUES.decode(VALUES.encode(record)) for record in written]


def begun(job: Job | None = None) -> Desk:
    desk = Desk(job)
    desk.ask(m.CreateJobRequest("first", desk.job.to_json()))
    return desk


def another(desk: Desk) -> Desk:
    """The next term of the same job; shards come back with all they had applied."""
    fresh = Desk(desk.job)
    fresh.coordinator = Coordinator(desk.job, 2, 2, "lineage")
    fresh.coordinator.remember(records_of(desk))
    fresh.state = fresh.coordinator._state
    for shard in fresh.shards:
        fresh.connect(shard, is_resumed=True)
        fresh.opened(shard, version=desk.state.version)
        if desk.state.version >= 0:
            fresh.from_shard(shard, m.Applied("j", desk.state.version - 1, ()))
    return fresh


def books(state: JobState) -> dict[str, Any]:
    """All that must outlive a restart."""
    counts = state.attempts.counts()
    return {
        "version": state.version,
        "samples": (state.samples_committed, state.samples_skipped, state.steps_skipped),
        "counts": (counts.committed, counts.skipped),
        "config": [state.config.at(step).to_json() for step in range(8)],
        "kernel": state.kernel,
        "stop": state.stop_steps,
        "skipped": list(state.skipped),
        "best": (state.evaluations.best_version, state.evaluations.since_best),
        "loss scale": [state.loss_scale_of(step) for step in range(state.version, state.version + 2)],
        "life": (state.life, state.why),
    }


def train(desk: Desk, steps: int) -> Desk:
    for _ in range(steps):
        step = desk.state.version
        desk.fill()
        desk.finish(step)
    return desk


def test_job_of_which_nothing_is_known_but_its_name_comes_back_declared() -> None:
    desk = another(begun())
    assert desk.state.life is Life.DECLARED
    assert desk.open().state.life is Life.INITIALISING


@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_books_of_committed_steps_are_the_same(steps: int) -> None:
    desk = train(begun().start(), steps)
    assert books(another(desk).state) == books(desk.state)


def test_skipped_steps_changes_evaluations_and_an_asked_stop_are_the_same() -> None:
    desk = begun(job_of(stop={"steps": 9, "metric": "accuracy", "patience": 5})).start()
    train(desk, 1)
    desk.fill()
    desk.prepare(1, is_finite=False)
    desk.from_all(m.Applied("j", 1, ()))
    changes = json.dumps({"optimizer.lr.peak": 0.5})
    desk.ask(m.ConfigChangeRequest("j", "once", 3, changes, "me"))
    for version, value in ((1, 0.5), (2, 0.4)):
        desk.ask(m.EvaluationRequest("j", version, (m.Metric("accuracy", value),), "me"))
    train(desk, 2)
    desk.ask(m.ControlRequest("j", "stop", "me"))
    fresh = another(desk)
    assert books(fresh.state) == books(desk.state)
    assert fresh.state.config.at(3).optimizer.lr.peak == 0.5  # type: ignore[union-attr]


def test_change_that_was_answered_is_answered_alike_and_made_once() -> None:
    desk = train(begun().start(), 1)
    request = m.ConfigChangeRequest("j", "once", -1, json.dumps({"optimizer.lr.peak": 0.5}), "me")
    first = desk.ask(request)
    fresh = another(desk)
    assert fresh.ask(request) == first
    assert len(fresh.state.config._changes) == 2


@pytest.mark.parametrize("woken", [False, True])
def test_paused_job_stays_paused_until_it_is_resumed(woken: bool) -> None:
    desk = train(begun().start(), 1)
    desk.ask(m.ControlRequest("j", "pause", "me"))
    if woken:
        desk.ask(m.ControlRequest("j", "resume", "me"))
    fresh = another(desk)
    assert fresh.state.life is (Life.RUNNING if woken else Life.PAUSED)


def test_step_that_was_decided_is_told_again_and_published() -> None:
    """The process died after the decision, before a shard heard of it."""
    desk = train(begun().start(), 1)
    desk.fill()
    desk.prepare(1)
    fresh = Desk(desk.job)
    fresh.coordinator = Coordinator(desk.job, 2, 2, "lineage")
    fresh.coordinator.remember(records_of(desk))
    fresh.state = fresh.coordinator._state
    decision = desk.state.steps[1].decision
    assert decision is not None
    for shard in fresh.shards:
        fresh.connect(shard, is_resumed=True)
        fresh.opened(shard, version=1, prepared=decision.map_digest)
    assert [command.step for command in fresh.sent(m.Commit)] == [1]
    assert fresh.state.version == 1
    fresh.from_all(m.Applied("j", 1, ()))
    assert fresh.state.version == 2
    assert fresh.reports[-1].samples == 16


def test_undecided_step_begins_again_with_attempts_of_the_new_term() -> None:
    desk = train(begun().start(), 1)
    old = desk.leased("a")
    fresh = another(desk)
    assert m.Restart("j", 1) in fresh.sent(m.Restart)
    fresh.attach("a")
    lease = fresh.leased("a")
    assert (lease.step, lease.slot, lease.sample_start) == (old.step, old.slot, old.sample_start)
    assert lease.attempt > old.attempt


def test_samples_of_files_that_are_committed_are_not_leased_again() -> None:
    desk = begun(job_of(slots=1, data={"mode": "shards", "files": FILES}, stop={"steps": 9})).start()
    train(desk, 2)
    fresh = another(desk)
    fresh.attach("a")
    train(fresh, 7)
    done = [
        (report.step, span.file, span.first + index)
        for report in [*desk.reports, *fresh.reports[1:]]
        for slot in report.slots
        for span in slot.files
        for index in range(span.count)
    ]
    first_epoch = [place[1:] for place in done[:17]]
    assert len(set(first_epoch)) == 17, "every sample of the first pass once"


def test_asynchronous_samples_that_are_committed_are_not_leased_again() -> None:
    job = job_of(slots=1, batch={"max_staleness": "unbounded"}, stop={"steps": 6})
    desk = begun(job).start()
    held = [desk.leased("a")]  # sequence 0 stays out, 1 and 2 are committed
    for _ in range(2):
        lease = desk.leased("a", *held)
        held.append(lease)
        desk.stage(lease)
        desk.folded()
        desk.finish(desk.state.version)
    fresh = another(desk)
    fresh.attach("a")
    first = fresh.leased("a")
    second = fresh.leased("a", first)
    assert [first.sample_start, second.sample_start] == [0, 12]
