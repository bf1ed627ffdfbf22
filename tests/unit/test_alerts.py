"""Each rule speaks where it should and is silent where it should not; alerts begin once and end once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.browser import Browser
from tests.unit.monitored import STATUS, step_report

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.alerts.book import AlertBook
from sheepfold_server.dashboard.alerts.rules import RULES, Finding, Limits, View, findings
from sheepfold_server.dashboard.app import create_app
from sheepfold_server.dashboard.history.history import History
from sheepfold_server.dashboard.history.ranges import SliceRange
from sheepfold_server.dashboard.store import Store

LIMITS = Limits()
LINEAGE = STATUS.lineage


def slice_in(ratio: float = 1.0, clamp: str = "", steps_clamped: int = 0) -> SliceRange:
    facts = m.SliceFacts(0, "encoder.0.weight", 2.0, 0.5, 0.1, ratio, clamp)
    return SliceRange(facts, ratio, ratio, 1.0, steps_clamped)


def report(step: int, *, samples: int = 256, seconds: float = 1.0, **given: Any) -> m.StepReport:
    return replace(step_report(step, **given), samples=samples, wait_seconds=seconds, slices=())


def of_workers(step: int, slots: Sequence[str]) -> m.StepReport:
    slot = step_report(step).slots[0]
    return replace(
        report(step), slots=tuple(replace(slot, slot=i, worker=name) for i, name in enumerate(slots))
    )


def with_norms(step: int, **norms: float) -> m.StepReport:
    """A slot of each worker, whose norms vary a little from step to step."""
    slot, wobble = step_report(step).slots[0], 1.0 + 0.05 * (step % 3)
    slots = tuple(
        replace(slot, slot=i, worker=name, gradient_norm=norm * wobble)
        for i, (name, norm) in enumerate(norms.items())
    )
    return replace(report(step), slots=slots, slot_gradient_norm=1.0)


def attached(*names: str) -> m.JobStatus:
    worker = STATUS.workers[0]
    return replace(STATUS, workers=tuple(replace(worker, worker=name) for name in names))


def refusing(refused: int, committed: int) -> m.JobStatus:
    worker = replace(STATUS.workers[0], refused=refused, slots_committed=committed)
    event = m.Event(1, 0.0, 3, "refusal", "", "attempt 1:9 by worker-a is refused: 3 non-finite elements")
    return replace(STATUS, workers=(worker,), events=(event,))


def kept(version: int, age_seconds: float, every_seconds: float = 1800.0) -> m.JobStatus:
    event = m.Event(1, 0.0, 3, "checkpoint", "", "no space")
    return replace(
        STATUS,
        state="running",
        events=(event,),
        checkpoint_url="kept",
        checkpoint_version=version,
        checkpoint_age_seconds=age_seconds,
        checkpoint_every_seconds=every_seconds,
    )


def spoken(view: View) -> list[tuple[str, str]]:
    return [(found.name, found.subject) for found in findings(view, LIMITS)]


STEADY = [report(step) for step in range(32)]
EVEN = [of_workers(step, "abcd") for step in range(32)]
SPEAKS = {
    "SlicePinned": View(STATUS, slices=[slice_in(10.0, "ratio", 50)]),
    "RatioOutside": View(STATUS, slices=[slice_in(1e3)]),
    "RepeatedSkip": View(STATUS, [*STEADY, *(step_report(s, is_skip=s % 2 == 0) for s in range(32, 38))]),
    "NonFiniteContributor": View(refusing(3, committed=20)),
    "ThroughputDrop": View(STATUS, [*STEADY, *(report(step, seconds=2.5) for step in range(32, 40))]),
    "Straggler": View(attached(*"abcd"), [*EVEN, *(of_workers(step, "abca") for step in range(32, 64))]),
    "WorkerDeviates": View(STATUS, [with_norms(step, a=1.0, b=1.1, c=3.0) for step in range(16)]),
    "BatchAboveNoiseScale": View(STATUS, STEADY, noise_scale=200.0),
    "CheckpointOverdue": View(kept(3, 3601.0)),
}
SILENT = {
    "SlicePinned": View(STATUS, slices=[slice_in(10.0, "ratio", 49)]),
    "RatioOutside": View(STATUS, slices=[slice_in(1e-4), slice_in(1e2)]),
    "RepeatedSkip": View(STATUS, [step_report(step, is_skip=step % 5 == 0) for step in range(40)]),
    "NonFiniteContributor": View(refusing(3, committed=27)),
    "ThroughputDrop": View(STATUS, [*STEADY, *(report(step, seconds=1.9) for step in range(32, 40))]),
    "Straggler": View(attached(*"abcd"), [*EVEN, *(of_workers(step, "abcd") for step in range(32, 64))]),
    "WorkerDeviates": View(STATUS, [with_norms(step, a=1.0, b=1.1, c=1.2) for step in range(16)]),
    "BatchAboveNoiseScale": View(STATUS, STEADY, noise_scale=256.0),
    "CheckpointOverdue": View(kept(3, 3600.0)),
}


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_rule_speaks_about_its_case_and_about_nothing_else(rule: str) -> None:
    assert {name for name, _ in spoken(SPEAKS[rule])} == {rule}


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_rule_is_silent_just_below_its_limit(rule: str) -> None:
    assert spoken(SILENT[rule]) == []


@pytest.mark.parametrize(("seconds", "is_over"), [(1.5, False), (1.4, True)])
def test_drop_that_has_begun_is_over_only_well_above_where_one_begins(seconds: float, is_over: bool) -> None:
    reports = [*STEADY, *(report(step, seconds=seconds) for step in range(32, 40))]
    begun = frozenset({("ThroughputDrop", STATUS.job)})
    assert spoken(View(STATUS, reports)) == []
    assert (spoken(View(STATUS, reports, active=begun)) == []) is is_over


@pytest.mark.parametrize(
    ("rule", "subject", "numbers"),
    [
        ("SlicePinned", "encoder.0.weight", ("50 steps", "it is 10", "||w|| = 2", "||u|| = 0.5", "(ratio)")),
        ("RatioOutside", "encoder.0.weight", ("is 1000", "0.0001 to 100")),
        ("RepeatedSkip", "lenet", ("3 of the newest 10", "step 36", "a gradient was not finite")),
        (
            "NonFiniteContributor",
            "worker-a",
            ("3 of its 23 contributions", "last: attempt 1:9 by worker-a is refused: 3 non-finite elements"),
        ),
        ("ThroughputDrop", "lenet", ("newest 8 steps", "32 before")),
        ("Straggler", "d", ("0 slots of the newest 32 steps", "median worker 32")),
        ("BatchAboveNoiseScale", "lenet", ("256 samples", "noise scale of 200")),
        ("CheckpointOverdue", "lenet", ("version 3 is kept", "60 minutes", "every 30", "last: no space")),
    ],
)
def test_alert_names_its_subject_with_numbers_and_a_remedy(
    rule: str, subject: str, numbers: tuple[str, ...]
) -> None:
    (found,) = findings(SPEAKS[rule], LIMITS)
    assert found.subject == subject
    assert [number for number in numbers if number not in found.text] == []
    assert found.remedy
    assert found.severity in ("warning", "critical")


@pytest.mark.parametrize(
    "status",
    [replace(kept(-1, 9e9), checkpoint_every_seconds=0.0), replace(kept(3, 9e9), state="paused")],
    ids=["not by time", "paused"],
)
def test_checkpoint_that_is_not_due_is_not_overdue(status: m.JobStatus) -> None:
    assert spoken(View(status)) == []


def test_job_of_which_nothing_was_ever_kept_is_told_so() -> None:
    (found,) = findings(View(kept(-1, 4000.0)), LIMITS)
    assert found.text.startswith("none is kept")


def test_worker_that_came_late_or_left_is_no_straggler() -> None:
    late = [*(of_workers(s, "abca") for s in range(32)), *(of_workers(s, "abcd") for s in range(32, 36))]
    assert spoken(View(attached(*"abcd"), late)) == []
    left = View(attached(*"abc"), SPEAKS["Straggler"].reports)
    assert spoken(left) == []


def test_paused_job_has_not_lost_throughput() -> None:
    assert spoken(replace(SPEAKS["ThroughputDrop"], status=replace(STATUS, state="paused"))) == []


# --- the book -----------------------------------------------------------------------------------------


def finding(subject: str, text: str = "text") -> Finding:
    return Finding("SlicePinned", "warning", subject, text, "remedy")


def test_alert_begins_once_and_ends_once() -> None:
    book = AlertBook()
    (begun,) = book.update([finding("a")], LINEAGE, step=5, seconds=100.0)
    assert (begun.since_step, begun.since_seconds, begun.ended_seconds) == (5, 100.0, None)
    assert book.update([finding("a", "newer")], LINEAGE, step=9, seconds=104.0) == []
    (active,) = book.all()
    assert (active.text, active.since_step) == ("newer", 5)
    (ended,) = book.update([], LINEAGE, step=12, seconds=110.0)
    assert (ended.since_step, ended.ended_seconds, ended.text) == (5, 110.0, "newer")
    assert book.all() == [ended]


def test_active_alerts_stand_before_ended_ones_and_the_newest_first() -> None:
    book = AlertBook()
    book.update([finding("a")], LINEAGE, 1, 1.0)
    book.update([finding("a"), finding("b")], LINEAGE, 2, 2.0)
    book.update([finding("b"), finding("c")], LINEAGE, 3, 3.0)
    assert [(alert.subject, alert.ended_seconds) for alert in book.all()] == [
        ("c", None),
        ("b", None),
        ("a", 3.0),
    ]


def test_alert_of_a_history_that_was_left_ends_and_begins_anew_in_the_next() -> None:
    """A step of the one says nothing in the other."""
    book = AlertBook()
    book.update([finding("a")], LINEAGE, 200, 1.0)
    ended, begun = book.update([finding("a")], "next", 3, 2.0)
    assert (ended.lineage, ended.since_step, ended.ended_seconds) == (LINEAGE, 200, 2.0)
    assert (begun.lineage, begun.since_step, begun.ended_seconds) == ("next", 3, None)


def test_book_goes_on_with_what_an_earlier_one_held() -> None:
    first = AlertBook()
    changed = [
        *first.update([finding("a"), finding("b")], LINEAGE, 1, 1.0),
        *first.update([], LINEAGE, 2, 2.0),
    ]
    changed += first.update([finding("c"), finding("d")], LINEAGE, 3, 3.0)
    second = AlertBook(changed[2:])
    assert second.all() == first.all()
    assert second.update([finding("c"), finding("d")], LINEAGE, 4, 4.0) == []
    (ended,) = second.update([finding("d")], LINEAGE, 5, 5.0)
    assert (ended.subject, ended.since_seconds, ended.ended_seconds) == ("c", 3.0, 5.0)


# --- through the API ----------------------------------------------------------------------------------


def test_alert_is_shown_told_as_an_event_and_its_step_kept() -> None:
    store = Store(clock=lambda: 50.0, limits=Limits(pinned_steps=3))
    store.set_jobs(("lenet",))
    store.set_status(replace(STATUS, version=0), at=0.0)
    for step in range(4):
        store.add(step_report(step))
    store.set_status(STATUS, at=10.0)
    client = Browser(create_app(store))
    (alert,) = client.get("/api/v1/jobs/lenet/alerts").json()["alerts"]
    assert (alert["name"], alert["subject"], alert["since_step"]) == ("SlicePinned", "conv1.bias", 3)
    assert (alert["since_seconds"], alert["ended_seconds"]) == (50.0, None)
    (event,) = client.get("/api/v1/jobs/lenet/events?kind=alert").json()["events"]
    assert event["text"].startswith("SlicePinned of conv1.bias began: the trust ratio met its bound")

    free = step_report(4)
    store.add(replace(free, slices=(free.slices[0], replace(free.slices[1], clamp=""))))
    store.set_status(replace(STATUS, version=5), at=20.0)
    (alert,) = client.get("/api/v1/jobs/lenet/alerts").json()["alerts"]
    assert alert["ended_seconds"] == 50.0
    assert client.get("/api/v1/jobs/bert/alerts").status_code == 404


# --- over a restart -----------------------------------------------------------------------------------


def followed(history: History, seconds: float) -> Store:
    """A dashboard that has just been started and reads a job of which it follows the newest steps."""
    store = Store(history, clock=lambda: seconds, limits=Limits(pinned_steps=3))
    store.set_jobs(("lenet",))
    return store


def told_alerts(store: Store) -> list[str]:
    events = store.history.events("lenet", LINEAGE, None, None, ("alert",), 100)
    return [" ".join(event.text.split()[:4]).rstrip(":") for event in events]


def test_alerts_are_the_same_after_a_restart_and_judging_again_changes_nothing(tmp_path: Path) -> None:
    """`RepeatedSkip` is judged by reports, `SlicePinned` by slices, `NonFiniteContributor` by the status."""
    history = History(tmp_path / "history.sqlite")
    first = followed(history, 50.0)
    first.set_status(replace(STATUS, version=0), at=0.0)
    for step in range(8):
        first.add(step_report(step, is_skip=step % 2 == 1))
    first.set_status(replace(refusing(3, committed=20), version=8), at=10.0)
    first.set_status(replace(STATUS, version=8), at=20.0)
    before, told = first.alerts("lenet"), told_alerts(first)
    assert [(a.name, a.since_step, a.ended_seconds) for a in before] == [
        ("RepeatedSkip", 7, None),
        ("SlicePinned", 7, None),
        ("NonFiniteContributor", 7, 50.0),
    ]
    history.close()

    history = History(tmp_path / "history.sqlite")
    second = followed(history, 90.0)
    for at in (0.0, 10.0, 20.0):
        second.set_status(replace(STATUS, version=8), at=at)
        assert second.alerts("lenet") == before
    assert told_alerts(second) == told

    free = step_report(8)
    second.add(replace(free, slices=(free.slices[0], replace(free.slices[1], clamp=""))))
    second.set_status(replace(STATUS, version=9), at=30.0)
    history.close()
    history = History(tmp_path / "history.sqlite")
    third = followed(history, 99.0)
    third.set_status(replace(STATUS, version=9), at=0.0)
    assert [(a.name, a.since_seconds, a.ended_seconds) for a in third.alerts("lenet")] == [
        ("RepeatedSkip", 50.0, None),
        ("SlicePinned", 50.0, 90.0),
        ("NonFiniteContributor", 50.0, 50.0),
    ]
    assert told_alerts(third) == [*told, "SlicePinned of conv1.bias ended"]
    history.close()


def test_noise_scale_is_known_at_once_after_a_restart(tmp_path: Path) -> None:
    """Otherwise an alert about it would end with each restart."""
    history = History(tmp_path / "history.sqlite")
    first = followed(history, 50.0)
    first.set_status(replace(STATUS, version=0), at=0.0)
    for step in range(32):
        sent = with_norms(step, a=4.0, b=4.1)
        first.add(replace(sent, gradient_norm=3.5))
    (known,) = first.moments()
    assert known.noise_scale is not None
    history.close()
    history = History(tmp_path / "history.sqlite")
    second = followed(history, 90.0)
    second.set_status(STATUS, at=0.0)
    (again,) = second.moments()
    assert again.noise_scale == pytest.approx(known.noise_scale)
    history.close()
