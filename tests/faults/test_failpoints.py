"""Death at named moments: the table is about the program as it is, and the most delicate cost nothing.

`make chaos` goes through all of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from tests.faults import chaos, fleet, strikes
from tests.faults.failpoints import FAILPOINTS, found, named
from tests.faults.fleet import Staging, killed_fleet
from tests.faults.proxy import Fault
from tests.faults.strikes import KILLS, STOPS, Striker, Tally
from tests.integration.harness import digest_of, running_fold, small_job, train

import sheepfold_wire.messages as m
from sheepfold_server.core import records
from sheepfold_wire.job import Checkpoint, Stop

ROOT = Path(__file__).parents[2]
ROLES = ("worker", "shard", "coordinator")
STEPS = 20
JOB = small_job("failing", stop={"steps": STEPS}, leases={"seconds": 3.0})
DELICATE = (
    "shard.appended",
    "coordinator.commit.halfway",
    "shard.pass1.done",
    "coordinator.totals.halfway",
)
DELETING = ("coordinator.deleted", "coordinator.delete.halfway", "shard.delete.closed")
SIMULATED = {
    "EndAttempts",
    "Refold",
    "Restart",
    "KeepVersions",
    "PartRefused",
    "Folded",
    "PartLost",
    "ShardFailed",
    "KernelChosen",
    "Paused",
    "Woken",
    "StopAsked",
    "Evaluated",
    "SamplesSkipped",
}
"""Left to tests/sim: real processes come there too rarely, or nothing is decided by them."""
SAID = {*get_args(m.ShardCommand), *get_args(m.ShardReport), *get_args(records.CoordinatorRecord)}
WRITTEN = {records.StateSaved}
SHOWN = {"AnswerPush", "Publish", "AttachRequest", "LeaseRequest", "ReleaseRequest"}


def test_every_failpoint_is_a_moment_of_its_own_in_the_program() -> None:
    """A function that is renamed must be renamed here."""
    assert len(FAILPOINTS) >= 40
    assert len({point.name for point in FAILPOINTS}) == len(FAILPOINTS)
    moments = Counter((point.role, point.place, point.moment, point.of, point.nth) for point in FAILPOINTS)
    assert [moment for moment, count in moments.items() if count > 1] == []
    for point in FAILPOINTS:
        assert callable(found(point.place)[2])
        assert point.role in ROLES
        assert point.is_then


def test_every_message_and_record_has_a_failpoint_or_is_said_to_be_left_to_the_simulation() -> None:
    """What is added to the protocol is added here."""
    named_in_table = {point.of for point in FAILPOINTS if point.of}
    known = {kind.__name__ for kind in SAID}
    covered = named_in_table | SIMULATED | {"Hello"}  # of a shard's first word: shard.hello
    assert known <= covered, known - covered
    others = {kind.__name__ for kind in WRITTEN} | SHOWN
    assert named_in_table <= known | others, named_in_table - known - others


def test_the_product_knows_nothing_of_failpoints() -> None:
    for package in ("server", "client", "protos"):
        for path in (ROOT / package).rglob("*.py"):
            assert "failpoint" not in path.read_text("utf-8").lower(), path


def test_a_point_is_reached_by_calls_with_its_kind_of_value_only() -> None:
    point = named("shard.prepared")
    prepared = object.__new__(m.Prepared)
    assert point.matches((object(), prepared))
    assert point.matches(([prepared],))
    assert not point.matches((object(), object.__new__(m.Staged)))


@cache
def golden(steps: int = STEPS) -> str:
    job = JOB.model_copy(update={"stop": Stop(steps=steps)})
    with running_fold(2) as undisturbed:
        train(undisturbed.address, job)
        return digest_of(undisturbed.address, job.name)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_death_at_the_most_delicate_moments_changes_no_bit_and_a_kill_that_kills_nobody_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = Tally()
    with killed_fleet(tmp_path, JOB, workers=1, staging=Staging(has_failpoints=True)) as disturbed:
        striker = Striker(disturbed, tally, random.Random(1))
        disturbed.until(lambda: disturbed.version() >= 0, "version 0")
        lineage = disturbed.lineage()
        for name in DELICATE:
            assert striker.fire(named(name)), f"nobody came to {name}"
        with monkeypatch.context() as patch:
            patch.setattr(disturbed, "kill", lambda child: None)
            patch.setattr(strikes, "HIT_SECONDS", 1.0)
            # The coordinator may be on its way back: to ask it takes longer than that.
            assert not striker.fire(replace(named("shard.appended"), name="shard.that_is_nowhere"))
            patch.setattr(fleet, "DEADLINE_SECONDS", 1.0)
            with pytest.raises(AssertionError, match="the death of"):
                striker.kill("shard")
        assert disturbed.finish() == golden()
        assert disturbed.lineage() == lineage, "committed steps were lost: the job went back to a checkpoint"
    assert tally.hit == set(DELICATE)
    assert tally.kills.total() == len(DELICATE)


# --- a run that lacks something --------------------------------------------------------------------------


def complete() -> Tally:
    """Of a run in which everything happened."""
    tally = Tally(runs=1, hit={point.name for point in FAILPOINTS})
    tally.kills.update(KILLS)
    tally.stops.update(STOPS)
    tally.faults.update(Fault)
    tally.forwarded_bytes.update({f"workers to shard {i}": 100_000_000 for i in range(2)})
    return tally


def test_a_run_in_which_everything_happened_has_no_shortfall() -> None:
    assert chaos.shortfalls(complete()) == []


def without_a_hit(tally: Tally) -> None:
    tally.hit.discard("shard.appended")


def without_flips(tally: Tally) -> None:
    tally.faults[Fault.CORRUPT] = 0


def without_deaths(tally: Tally) -> None:
    tally.kills["coordinator"] = 0


def without_stops(tally: Tally) -> None:
    tally.stops["stopped shard"] = 0


def without_traffic(tally: Tally) -> None:
    tally.forwarded_bytes["workers to shard 1"] = 1000


@pytest.mark.parametrize(
    ("idle", "said"),
    [
        (without_a_hit, "shard.appended was never hit"),
        (without_flips, "no corrupt was injected"),
        (without_deaths, "no coordinator was killed"),
        (without_stops, "nothing was a stopped shard"),
        (without_traffic, "1000 bytes from workers to shard 1"),
    ],
)
def test_a_run_that_lacks_one_kind_of_fault_is_red(idle: Callable[[Tally], None], said: str) -> None:
    tally = complete()
    idle(tally)
    (shortfall,) = chaos.shortfalls(tally)
    assert shortfall.startswith(said)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_death_while_a_version_between_checkpoints_is_gone_back_to_changes_no_bit(tmp_path: Path) -> None:
    stop, rule = Stop(steps=3 * STEPS), Checkpoint(every_steps=0, every_minutes=0)
    job = JOB.model_copy(update={"stop": stop, "checkpoint": rule})
    tally = Tally()
    with killed_fleet(tmp_path, job, workers=1, staging=Staging(has_failpoints=True)) as disturbed:
        striker = Striker(disturbed, tally, random.Random(1))
        disturbed.until(lambda: disturbed.version() >= 0, "version 0")
        lineage = disturbed.lineage()
        points = [point for point in FAILPOINTS if point.needs == "earlier"]
        for point in (*points, replace(named("coordinator.indexed"), needs="earlier")):
            assert striker.fire(point), f"nobody came to {point.name}"
            disturbed.until(lambda: disturbed.version() >= 0, "an answer")
            version = disturbed.version() + 1
            disturbed.until(lambda due=version: disturbed.version() > due, "a step of all shards")  # type: ignore[misc]
        assert disturbed.lineage() == lineage, "who asked was not answered, and nothing is changed"
        striker._lead_to(points[0])
        disturbed.until(lambda: disturbed.lineage() != lineage, "another lineage")
        assert disturbed.finish() == golden(3 * STEPS)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_death_while_a_job_is_deleted_leaves_nothing_of_it_and_no_bit_of_another_changed(
    tmp_path: Path,
) -> None:
    tally = Tally()
    points = [named(name) for name in DELETING]
    with killed_fleet(tmp_path, JOB, workers=1, staging=Staging(has_failpoints=True)) as disturbed:
        striker = Striker(disturbed, tally, random.Random(1))
        disturbed.until(lambda: disturbed.version() >= 0, "version 0")
        lineage = disturbed.lineage()
        for point in points:
            assert striker.fire(point), f"nobody came to {point.name}"
        assert disturbed.finish() == golden()
        assert disturbed.lineage() == lineage, "committed steps were lost: the job went back to a checkpoint"
    assert tally.hit == {point.name for point in points}
