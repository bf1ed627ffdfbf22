"""The dashboard's history: what it keeps, rolls up, survives and refuses."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.monitored import step_report

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.history.alerts import ENDED_KEPT, Alert
from sheepfold_server.dashboard.history.charts import Kept, Window
from sheepfold_server.dashboard.history.events import Event
from sheepfold_server.dashboard.history.file import HistoryRefused
from sheepfold_server.dashboard.history.history import History, NotKept
from sheepfold_server.dashboard.history.record import SCALARS, SLICE_VALUES
from sheepfold_server.dashboard.history.rows import exact, joined, merged

JOB, LINEAGE = "lenet", "abc"
SMALL = Kept(steps=100, flagged=20, rollups=8, lineages=3)
LOSS = SCALARS.index("loss")

Opened = Callable[..., History]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens histories, and closes them at the end."""
    histories: list[History] = []

    def open_one(name: str = "history.sqlite", kept: Kept = SMALL) -> History:
        histories.append(History(tmp_path / name, kept))
        return histories[-1]

    yield open_one
    for history in histories:
        history.close()


@pytest.fixture(scope="module")
def thousand() -> History:
    """A thousand steps, of which 100 are kept whole; only read."""
    history = History(kept=Kept(steps=100))
    fill(history, range(1_000))
    return history


def loss_at(step: int) -> float:
    return float(step * 37 % 101)


def report(step: int) -> m.StepReport:
    """A step whose second slice is clamped always; its loss and ratio vary."""
    return replace(step_report(step, ratio=1.0 + loss_at(step)), loss=loss_at(step))


def fill(history: History, steps: range, lineage: str = LINEAGE) -> None:
    for step in steps:
        history.add(replace(report(step), lineage=lineage), seconds=1_000.0 + step)


# --- series -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [1, 7, 40, 250, 5_000])
@pytest.mark.parametrize(("first", "last"), [(None, None), (0, 999), (960, 999), (300, 700)])
def test_any_chart_has_the_extremes_and_the_mean_of_its_steps(
    thousand: History, first: int | None, last: int | None, points: int
) -> None:
    """Whatever levels it is read from: each point is checked against the steps it stands for."""
    chart = thousand.series(JOB, LINEAGE, first, last, points)
    rows, length = chart.rows, chart.steps_per_point
    assert 0 < len(rows) <= points
    assert rows.step[0] <= (first or 0)
    for i, step in enumerate(rows.step.tolist()):
        end = min(step // length * length + length, int(rows.step[i + 1]) if i + 1 < len(rows) else 10**9)
        losses = [loss_at(t) for t in range(step, end) if t <= 999][: int(rows.count[i, LOSS])]
        assert rows.low[i, LOSS] == min(losses)
        assert rows.high[i, LOSS] == max(losses)
        assert rows.mean[i, LOSS] == pytest.approx(np.mean(losses))


def test_points_of_a_growing_job_stay_where_they_were() -> None:
    history = History()
    fill(history, range(600))
    before = history.series(JOB, LINEAGE, None, None, 100)
    fill(history, range(600, 604))
    after = history.series(JOB, LINEAGE, None, None, 101)
    assert after.steps_per_point == before.steps_per_point
    assert after.rows.step.tolist()[: len(before.rows)] == before.rows.step.tolist()
    whole = len(before.rows) - 1  # the last point was not finished
    assert np.array_equal(after.rows.mean[:whole, LOSS], before.rows.mean[:whole, LOSS])


def test_newest_steps_are_read_whole_and_older_ones_rolled_up() -> None:
    history = History(kept=SMALL)
    fill(history, range(1_000))
    assert history.series(JOB, LINEAGE, 920, None, 600).steps_per_point == 1
    assert history.series(JOB, LINEAGE, 880, None, 600).steps_per_point == 16
    assert history.series(JOB, LINEAGE, 500, 600, 600).steps_per_point == 64, "8 roll-ups of a level are kept"


def test_metric_that_comes_later_has_no_value_before() -> None:
    history = History()
    for step in range(40):
        metrics = (m.Metric("accuracy", step / 40),) if step >= 20 else ()
        history.add(replace(report(step), metrics=metrics), 0.0)
    column = history.series_names(JOB, LINEAGE).index("metric:accuracy")
    rows = history.series(JOB, LINEAGE, None, None, 10).rows
    assert np.isnan(rows.mean[0, column])
    assert rows.low[-1, column] == pytest.approx(36 / 40)
    assert rows.count[:, column].sum() == 20


def test_value_that_is_not_finite_counts_as_none() -> None:
    history = History()
    for step, loss in enumerate((1.0, float("nan"), float("inf"), 3.0)):
        history.add(replace(report(step), loss=loss), 0.0)
    rows = history.series(JOB, LINEAGE, None, None, 1).rows
    assert (rows.low[0, LOSS], rows.mean[0, LOSS], rows.high[0, LOSS], rows.count[0, LOSS]) == (1, 2, 3, 2)


def test_samples_are_counted_up_to_each_step_and_skipped_ones_not() -> None:
    history = History()
    for step in range(3):
        history.add(step_report(step, is_skip=step == 1), 0.0)
    history.add(step_report(9), 0.0)  # the reports of steps 3 to 8 were missed
    assert history.series(JOB, LINEAGE, None, None, 600).rows.samples.tolist() == [
        256,
        256,
        512,
        512 + 7 * 256,
    ]


def test_steps_missed_while_nobody_listened_leave_no_trace_in_the_others() -> None:
    history = History(kept=SMALL)
    fill(history, range(100))
    fill(history, range(5_000, 5_100))
    rows = history.series(JOB, LINEAGE, None, None, 5_000).rows
    assert rows.count[:, LOSS].sum() == 200
    assert rows.high[:, LOSS].max() == max(loss_at(t) for t in (*range(100), *range(5_000, 5_100)))


# --- slices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [10, 600])
def test_slice_series_and_heat_map_agree(points: int) -> None:
    history = History(kept=SMALL)
    fill(history, range(1_000))
    second = history.slice_series(JOB, LINEAGE, 1, 200, 999, points).rows
    for number, value in enumerate(SLICE_VALUES[:-1]):
        all_slices = history.heat(JOB, LINEAGE, Window(200, 999, points), number).rows
        assert np.array_equal(second.mean[:, number], all_slices.mean[:, 2]), value
    assert np.array_equal(second.mean[:, -1], all_slices.mean[:, 3])
    assert second.mean[:, 4].tolist() == [1.0] * len(second), "share of steps clamped"
    assert second.low[-1, 0] >= 2.0


def test_step_is_read_back_bit_by_bit() -> None:
    history = History()
    sent = replace(report(0), slices=tuple(replace(s, weight_norm=1 / 3) for s in report(0).slices))
    history.add(sent, 0.0)
    assert history.report(JOB, LINEAGE, 0) == sent


def test_slices_say_how_far_their_ratio_drifted_and_how_long_they_are_clamped() -> None:
    history = History()
    for step, ratio in enumerate((1.0, 2.0, 3.0, 8.0)):
        clamp = "phi" if step >= 2 else ""
        sent = step_report(step, ratio)
        history.add(replace(sent, slices=(replace(sent.slices[0], clamp=clamp), sent.slices[1])), 0.0)
    first, second = history.slices(JOB, LINEAGE)
    assert (first.trust_ratio_min, first.trust_ratio_max, first.trust_ratio_drift) == (1.0, 8.0, 3.2)
    assert (first.steps_clamped, second.steps_clamped) == (2, 4)


def test_slices_say_the_same_after_a_restart(opened: Opened) -> None:
    history = opened()
    fill(history, range(90))
    before = history.slices(JOB, LINEAGE)
    history.close()
    history = opened()
    assert history.slices(JOB, LINEAGE) == before
    assert [found.steps_clamped for found in before] == [0, 90]
    fill(history, range(90, 92))
    assert history.slices(JOB, LINEAGE)[1].steps_clamped == 92
    assert kept_steps(history).count(90) == 1
    flagged = history._connection.execute("SELECT count(*) FROM steps WHERE is_flagged").fetchone()[0]
    assert flagged == 1, "the clamp that began before the restart did not begin again"


# --- what is kept -------------------------------------------------------------------------------------


def kept_steps(history: History) -> list[int]:
    return [found.step for found in history.reports(JOB, LINEAGE, 0, None, 10_000)]


def test_old_steps_go_and_flagged_ones_stay() -> None:
    history = History(kept=SMALL)
    fill(history, range(50))
    history.add(step_report(50, is_skip=True), 0.0)
    fill(history, range(51, 90))
    history.flag(JOB, LINEAGE, 70)
    fill(history, range(90, 640))
    kept = kept_steps(history)
    assert kept[:3] == [0, 50, 70], "a clamp began, a skip, an alert"
    assert kept[3] >= 640 - SMALL.steps - 64
    assert kept[-SMALL.steps :] == list(range(540, 640))


def test_flagged_steps_are_bounded_too() -> None:
    history = History(kept=SMALL)
    for step in range(640):
        history.add(step_report(step, is_skip=True), 0.0)
    assert len(kept_steps(history)) <= SMALL.steps + SMALL.flagged + 64


def test_oldest_lineage_goes_when_there_are_too_many() -> None:
    history = History(kept=SMALL)
    for name in "abcd":
        fill(history, range(40), name)
        history.tell(JOB, name, Event(0, 1, 0.0, "state", "it began"))
    assert [lineage.name for lineage in history.lineages(JOB)] == ["b", "c", "d"]
    with pytest.raises(NotKept, match=r"no lineage 'a' here \(known: b, c, d\)"):
        history.series(JOB, "a", None, None, 10)


def test_job_that_was_quiet_for_longest_goes_when_there_are_too_many(tmp_path: Path) -> None:
    history = History(tmp_path / "history.sqlite", Kept(jobs=3))
    for seconds, job in enumerate(["quiet", "busy", "other", "busy", "newest"]):
        history.tell(job, LINEAGE, Event(0, seconds, float(seconds), "state", "it goes on"))
        history.begin(job, f"second of {job}")
    assert history.jobs() == ["busy", "newest", "other"]
    history.close()
    again = History(tmp_path / "history.sqlite")
    assert again.jobs() == ["busy", "newest", "other"]
    with pytest.raises(NotKept):
        again.events("quiet", LINEAGE, None, None, (), 10)
    again.close()


def test_report_known_already_changes_nothing() -> None:
    history = History()
    fill(history, range(10))
    assert not history.add(report(9), 0.0)
    assert not history.add(report(3), 0.0)
    assert kept_steps(history) == list(range(10))


def test_events_are_told_once_and_read_by_range_and_kind() -> None:
    history = History()
    history.begin(JOB, LINEAGE)
    change = Event(0, 5, 1.0, "change", "lr.peak 0.1 -> 0.2", "ada")
    assert history.tell(JOB, LINEAGE, change, once=True) is not None
    assert history.tell(JOB, LINEAGE, change, once=True) is None
    history.tell(JOB, LINEAGE, Event(0, 7, 2.0, "skip", "step 7 was skipped"))
    assert [e.step for e in history.events(JOB, LINEAGE, None, None, (), 10)] == [5, 7]
    assert [e.step for e in history.events(JOB, LINEAGE, 6, None, (), 10)] == [7]
    assert [e.author for e in history.events(JOB, LINEAGE, None, None, ("change",), 10)] == ["ada"]
    assert [e.step for e in history.events(JOB, LINEAGE, None, None, (), 1)] == [7]


def alert(number: int, ended_seconds: float | None = None, lineage: str = LINEAGE) -> Alert:
    since = float(number)
    return Alert(
        lineage, "SlicePinned", "warning", number, since, ended_seconds, "a.weight", "text", "remedy"
    )


def test_ended_alerts_are_bounded_and_active_ones_stay() -> None:
    history = History()
    history.keep_alert(JOB, alert(0))
    for number in range(1, ENDED_KEPT + 10):
        history.keep_alert(JOB, alert(number))
        history.keep_alert(JOB, alert(number, ended_seconds=number + 0.5))
    kept = history.alerts(JOB)
    assert kept[0] == alert(0)
    assert [found.since_step for found in kept[1:]] == list(range(10, ENDED_KEPT + 10))


def test_alerts_go_with_their_lineage() -> None:
    history = History(kept=SMALL)
    for number, name in enumerate("abcd"):
        history.begin(JOB, name)
        history.keep_alert(JOB, alert(number, lineage=name))
    assert [found.lineage for found in history.alerts(JOB)] == ["b", "c", "d"]
    (kept,) = history._connection.execute("SELECT count(*) FROM alerts").fetchone()
    assert kept == 3


# --- the file -----------------------------------------------------------------------------------------


def test_restart_loses_nothing_and_goes_on(opened: Opened) -> None:
    first = opened()
    fill(first, range(700))
    first.tell(JOB, LINEAGE, Event(0, 5, 1.0, "state", "it began"))
    first.close()
    second = opened()
    assert second.newest_version(JOB, LINEAGE) == 700
    fill(second, range(700, 1_000))
    assert len(second.events(JOB, LINEAGE, None, None, (), 10)) == 1

    whole = History(kept=SMALL)
    fill(whole, range(1_000))
    for points in (5, 60, 600):
        mine, other = (h.series(JOB, LINEAGE, None, None, points).rows for h in (second, whole))
        assert np.array_equal(mine.mean, other.mean, equal_nan=True)
        mine, other = (h.heat(JOB, LINEAGE, Window(None, None, points), 0).rows for h in (second, whole))
        assert np.array_equal(mine.mean, other.mean, equal_nan=True)
    assert kept_steps(second)[-SMALL.steps :] == kept_steps(whole)[-SMALL.steps :]


def test_second_dashboard_on_the_same_file_is_refused_with_the_holder(opened: Opened) -> None:
    opened()
    with pytest.raises(
        HistoryRefused, match=f"in use by the dashboard with pid {os.getpid()}; stop that one"
    ):
        opened()


def test_file_is_free_again_once_closed(opened: Opened) -> None:
    opened().close()
    assert opened().lineages(JOB) == []


@pytest.mark.parametrize("damage", ["no database", "pages overwritten"])
def test_corrupt_file_is_set_aside_and_a_new_one_begun(
    opened: Opened, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.sqlite"
    if damage == "no database":
        path.write_bytes(b"not a database at all" * 1_000)
    else:
        history = opened()
        fill(history, range(200))
        history.close()
        whole = bytearray(path.read_bytes())
        whole[2 * 16_384 : -16_384] = os.urandom(len(whole) - 3 * 16_384)
        path.write_bytes(whole)
    corrupt = path.read_bytes()
    with caplog.at_level(logging.ERROR):
        history = opened()
    fill(history, range(3))
    assert kept_steps(history) == [0, 1, 2]
    (aside,) = tmp_path.glob("history.sqlite.corrupt-*Z")
    assert aside.read_bytes() == corrupt
    assert f"set aside as {aside}, a new one is begun" in caplog.text


def test_history_of_an_earlier_version_is_set_aside_and_a_new_one_begun(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = opened()
    fill(history, range(3))
    history.close()
    with sqlite3.connect(tmp_path / "history.sqlite") as old:
        old.execute("PRAGMA user_version=2")
    old.close()
    assert opened().lineages(JOB) == []
    assert len(list(tmp_path.glob("history.sqlite.corrupt-*Z"))) == 1
    assert "that of an earlier version of sheepfold" in caplog.text


def test_database_of_somebody_else_is_refused_and_left_alone(opened: Opened, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "history.sqlite") as other:
        other.execute("CREATE TABLE theirs(x)")
    other.close()
    with pytest.raises(HistoryRefused, match="not a history of this version"):
        opened()
    assert not list(tmp_path.glob("*corrupt*"))


def test_place_that_cannot_be_written_is_refused_in_one_sentence(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(HistoryRefused, match="give a writable file with --history"):
        opened("taken/history.sqlite")


def test_full_disk_costs_what_does_not_fit_and_nothing_else(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    history = opened()
    fill(history, range(100))
    history.commit()
    pages = history._connection.execute("PRAGMA page_count").fetchone()[0]
    history._connection.execute(f"PRAGMA max_page_count={pages}")
    large = Event(0, 5, 1.0, "state", "x" * 1_000_000)
    assert history.tell(JOB, "another", large) is None
    assert history.tell(JOB, LINEAGE, large) is None
    assert caplog.text.count("the history cannot be written (database or disk is full)") == 1
    assert [lineage.name for lineage in history.lineages(JOB)] == [LINEAGE]

    history._connection.execute("PRAGMA max_page_count=1000000")
    fill(history, range(100, 120))
    history.close()
    assert kept_steps(opened())[-120:] == list(range(120))


# --- rows ---------------------------------------------------------------------------------------------


def test_merging_twice_is_merging_once() -> None:
    values = np.random.default_rng(0).normal(size=(64, 3))
    values[5:30, 1] = np.nan
    steps = np.arange(64)
    rows = exact(steps, steps * 1.0, steps * 2.0, values)
    at_once, in_two = merged(rows, 32), merged(merged(rows, 8), 32)
    for name in ("step", "low", "high", "count"):
        assert np.array_equal(getattr(at_once, name), getattr(in_two, name))
    assert np.allclose(at_once.mean, in_two.mean)
    assert np.isnan(merged(exact(steps, values[:, 0], values[:, 0], values * np.nan), 8).mean).all()


def test_nothing_joined_is_no_rows() -> None:
    assert joined((), 4).mean.shape == (0, 4)
