"""sheepfold_server.core.schedule"""

from __future__ import annotations

import pytest
from tests.unit.desk import job_of

from sheepfold_server.core.schedule import ConfigHistory, learning_rate
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import LearningRate


def test_warm_up_reaches_the_peak_at_its_last_step() -> None:
    lr = LearningRate(peak=1.0, warmup_steps=4)
    assert [learning_rate(lr, t, 10) for t in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_first_step_of_a_warm_up_is_not_wasted() -> None:
    assert learning_rate(LearningRate(peak=1.0, warmup_steps=4), 0, 10) > 0


def test_linear_decay_ends_at_the_final_rate() -> None:
    lr = LearningRate(peak=1.0, final=0.2, schedule="poly", warmup_steps=2)
    assert learning_rate(lr, 2, 10) == 1.0
    assert learning_rate(lr, 6, 10) == pytest.approx(0.6)
    assert learning_rate(lr, 10, 10) == 0.2


def test_power_bends_the_decay() -> None:
    lr = LearningRate(peak=1.0, schedule="poly", power=2.0)
    assert learning_rate(lr, 5, 10) == 0.25


def test_rate_beyond_the_last_step_stays_final() -> None:
    assert learning_rate(LearningRate(peak=1.0, schedule="poly"), 99, 10) == 0.0


def test_change_is_in_force_from_its_step_on() -> None:
    history = ConfigHistory(job_of())
    history.change(3, {"optimizer.lr.peak": 0.5})
    assert [history.at(t).optimizer.lr.peak for t in (0, 2, 3, 9)] == [0.1, 0.1, 0.5, 0.5]


def test_changes_add_up() -> None:
    history = ConfigHistory(job_of())
    history.change(1, {"optimizer.lr.peak": 0.5})
    history.change(2, {"stop.steps": 9})
    assert (history.newest.optimizer.lr.peak, history.newest.stop.steps) == (0.5, 9)


def test_change_before_a_later_one_is_refused() -> None:
    history = ConfigHistory(job_of())
    history.change(3, {"optimizer.lr.peak": 0.5})
    with pytest.raises(BadConfig, match="from step 3"):
        history.change(2, {"optimizer.lr.peak": 0.7})


def test_refused_change_changes_nothing() -> None:
    history = ConfigHistory(job_of())
    with pytest.raises(BadConfig, match="sealed"):
        history.change(1, {"optimizer.lr.peak": 0.5, "seed": 3})
    assert history.newest == job_of()
