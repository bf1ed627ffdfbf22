"""sheepfold_server.core.evaluations: the best version, and when a job stops for want of a better one."""

from __future__ import annotations

import pytest
from tests.unit.desk import Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core.evaluations import Evaluations
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import Stop


def found(version: int, **values: float) -> m.EvaluationRequest:
    return m.EvaluationRequest("j", version, tuple(m.Metric(k, v) for k, v in values.items()), "me")


def rule(**values: object) -> Stop:
    return Stop.model_validate({"steps": 100, "metric": "accuracy", **values})


def test_the_best_is_the_highest_or_the_lowest_as_the_goal_says() -> None:
    for goal, best in (("max", 2), ("min", 1)):
        evaluations = Evaluations()
        for version, value in ((1, 0.5), (2, 0.7), (3, 0.6)):
            reply = evaluations.take(found(version, accuracy=value), rule(goal=goal), 10)
        assert reply.best_version == best


def test_an_equal_value_is_no_better_one() -> None:
    evaluations = Evaluations()
    evaluations.take(found(1, accuracy=0.5), rule(), 10)
    assert evaluations.take(found(2, accuracy=0.5), rule(), 10) == m.EvaluationReply(False, 1, 1)


def test_patience_counts_newer_evaluations_since_the_best() -> None:
    evaluations, patient = Evaluations(), rule(patience=2)
    for version, value in ((1, 0.5), (2, 0.4), (2, 0.4), (1, 0.3)):  # twice the same, once an older one
        evaluations.take(found(version, accuracy=value), patient, 10)
        assert evaluations.why_stop(patient) == ""
    evaluations.take(found(3, accuracy=0.4), patient, 10)
    assert evaluations.why_stop(patient) == (
        "accuracy has not got better in 2 evaluations (stop.patience = 2); the best is 0.5 at version 1"
    )


def test_without_a_metric_nothing_is_best() -> None:
    reply = Evaluations().take(found(1, accuracy=0.5), Stop(steps=3), 10)
    assert reply == m.EvaluationReply(False, -1, 0)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (found(11, accuracy=0.5), "version 11 is evaluated, but the newest is 10"),
        (found(-1, accuracy=0.5), "version -1"),
        (found(1, loss=0.5), "'accuracy' is not among what was evaluated: loss"),
        (found(1, accuracy=float("nan")), "accuracy is nan"),
        (found(1, **{str(i): 0.0 for i in range(65)}), "65 metrics"),
        (found(1, **{"x" * 65: 0.0}), "65 characters"),
    ],
)
def test_what_cannot_be_compared_is_refused(request_: m.EvaluationRequest, said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        Evaluations().take(request_, rule(), 10)


def test_a_job_stops_by_its_rule_after_the_open_step_and_says_why() -> None:
    stop = {"steps": 5, "metric": "accuracy", "patience": 1}
    desk = Desk(job_of(1, stop=stop)).start()
    for step, value in ((0, 0.5), (1, 0.4)):
        desk.fill()
        desk.finish(step)
        desk.ask(found(step + 1, accuracy=value))
    status = desk.coordinator.status(desk.now)
    assert status.stop_steps == 3
    assert "accuracy has not got better in 1 evaluations" in status.changes[-1].author
    assert status.changes[-1].text == "ends at version 5 -> 3"
    desk.fill()
    desk.finish(2)
    assert desk.coordinator.has_ended
