"""Mirrors of step reports: real TensorBoard files, trackers that fail or are slow, restarts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.unit.monitored import step_report

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.trackers.choose import tracker_of
from sheepfold_server.dashboard.trackers.mirror import Mirror
from sheepfold_server.dashboard.trackers.scalars import scalars
from sheepfold_server.dashboard.trackers.tensorboard import TensorBoardRun, newest_version
from sheepfold_server.dashboard.trackers.tracker import Tracker, TrackerMissing


def report(step: int, **fields: object) -> m.StepReport:
    values = {"lineage": "0123456789abcdef", "metrics": (m.Metric("accuracy", step / 10),), **fields}
    return replace(step_report(step), **values)  # type: ignore[arg-type]


class Remembering:
    """A tracker in memory: what it was given, and an order to fail."""

    def __init__(self, newest: int = 0, fails: bool = False) -> None:
        self.newest, self.fails = newest, fails
        self.written: list[tuple[int, dict[str, float]]] = []
        self.is_closed = False

    def write(self, version: int, values: Mapping[str, float], at: float) -> None:
        if self.fails:
            raise RuntimeError("disk full")
        self.written.append((version, dict(values)))
        self.newest = version

    def close(self) -> None:
        self.is_closed = True


def mirrored(*trackers: Tracker, reports: list[m.StepReport], queue_max: int = 100) -> Mirror:
    mirror = Mirror([lambda job, lineage, t=t: t for t in trackers], queue_max)  # type: ignore[misc]
    for each in reports:
        mirror.offer(each)
    mirror.close()
    return mirror


def test_tensorboard_files_hold_every_number_of_every_version(tmp_path: Path) -> None:
    mirror = Mirror([tracker_of(f"tensorboard:{tmp_path}")], clock=lambda: 1_000_000.0)
    for step in range(5):
        mirror.offer(report(step))
    mirror.close()
    found = EventAccumulator(str(next(tmp_path.iterdir())))
    found.Reload()
    assert set(found.Tags()["tensors"]) >= {"loss", "learning_rate", "gradient_norm", "user/accuracy"}
    tags = scalars(report(3))
    assert any(tag.startswith("trust_ratio/") for tag in tags)
    for tag, value in tags.items():
        events = found.Tensors(tag)
        assert [event.step for event in events] == [1, 2, 3, 4, 5]
        assert events[3].tensor_proto.float_val[0] == pytest.approx(value)
        assert events[3].wall_time == 1_000_000.0


def test_a_job_has_a_run_of_its_own_and_a_lineage_another(tmp_path: Path) -> None:
    mirror = Mirror([tracker_of(f"tensorboard:{tmp_path}")])
    for fields in ({}, {"job": "other"}, {"lineage": "fedcba9876543210"}):
        mirror.offer(report(1, **fields))
    mirror.close()
    job = report(1).job
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{job}-01234567",
        "other-01234567",
        f"{job}-fedcba98",
    }


def test_after_a_restart_no_version_is_written_twice(tmp_path: Path) -> None:
    for steps in (range(3), range(5)):  # the dashboard reads all it can get again
        mirror = Mirror([tracker_of(f"tensorboard:{tmp_path}")])
        for step in steps:
            mirror.offer(report(step))
        mirror.close()
    run = next(tmp_path.iterdir())
    assert len(list(run.iterdir())) == 2
    found = EventAccumulator(str(run))
    found.Reload()
    assert [event.step for event in found.Tensors("loss")] == [1, 2, 3, 4, 5]


def test_a_torn_event_file_is_gone_on_behind(tmp_path: Path) -> None:
    run = TensorBoardRun(str(tmp_path), "j", "l")
    run.write(7, {"loss": 1.0}, 0.0)
    run.close()
    file = next((tmp_path / "j-l").iterdir())
    file.write_bytes(file.read_bytes() + b"\x20\x00\x00")
    assert newest_version(tmp_path / "j-l") == 7


def test_numbers_that_are_not_finite_and_a_loss_that_is_not_said_are_left_out() -> None:
    values = scalars(report(1, loss=None, gradient_norm=float("inf")))
    assert "loss" not in values
    assert "gradient_norm" not in values
    assert values["user/accuracy"] == 0.1


def test_a_tracker_that_fails_is_left_alone_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Remembering(fails=True), Remembering()
    mirrored(broken, sound, reports=[report(step) for step in range(3)])
    assert [version for version, _ in sound.written] == [1, 2, 3]
    assert caplog.text.count("writing a tracker's run failed") == 1
    assert sound.is_closed


def test_a_tracker_that_cannot_be_opened_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sound = Remembering()

    def refuses(job: str, lineage: str) -> Tracker:
        raise OSError("no such host")

    mirror = Mirror([refuses, lambda job, lineage: sound])
    mirror.offer(report(1))
    mirror.offer(report(2))
    mirror.close()
    assert [version for version, _ in sound.written] == [2, 3]
    assert caplog.text.count("opening a tracker's run failed") == 1


def test_what_an_earlier_process_wrote_is_not_written_again() -> None:
    tracker = Remembering(newest=2)
    mirrored(tracker, reports=[report(step) for step in range(4)])
    assert [version for version, _ in tracker.written] == [3, 4]


def test_a_slow_tracker_costs_the_oldest_reports_and_never_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    class Slow(Remembering):
        def write(self, version: int, values: Mapping[str, float], at: float) -> None:
            begun.set()
            assert goes_on.wait(30)
            super().write(version, values, at)

    slow = Slow()
    mirror = Mirror([lambda job, lineage: slow], queue_max=3)
    mirror.offer(report(0))
    assert begun.wait(30)
    for step in range(1, 9):  # returns at once, though nothing is written
        mirror.offer(report(step))
    goes_on.set()
    mirror.close()
    assert [version for version, _ in slow.written] == [1, 7, 8, 9]
    assert mirror.dropped == 5
    assert "5 step reports were dropped" in caplog.text


@pytest.mark.parametrize("text", ["tensorboard", "tensorboard:", "aim:x", ""])
def test_an_unknown_tracker_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(TrackerMissing, match="give tensorboard:DIR, wandb:PROJECT or mlflow:URI"):
        tracker_of(text)


def test_a_tracker_that_is_not_installed_is_refused_with_the_remedy() -> None:
    pytest.importorskip("tensorboard")
    try:
        import wandb  # noqa: F401
    except ImportError:
        with pytest.raises(TrackerMissing, match=r"pip install 'sheepfold\[wandb\]'"):
            tracker_of("wandb:project")
