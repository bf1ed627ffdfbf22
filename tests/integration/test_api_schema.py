"""No input makes the dashboard's API fail, and what it answers is what its OpenAPI description promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from tests.unit.browser import Browser
from tests.unit.monitored import STATUS, step_report

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.app import create_app
from sheepfold_server.dashboard.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
SETTINGS = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def filled() -> Store:
    """A job of some steps, with events, an alert and a worker that has measured something."""
    store = Store(clock=lambda: 1_764_000_000.0)
    store.set_trouble("")
    store.set_jobs(("lenet",))
    event = m.Event(1, 3.0, 0, "attach", "", "worker-a attached")
    worker = replace(
        STATUS.workers[0], usage=m.WorkerUsage(4.0, 1.0, 0.01, (m.ShardTraffic(0, 9, 1.0, 9, 1.0),))
    )
    store.set_status(replace(STATUS, version=0, events=(event,), workers=(worker,)), at=0.0)
    for step in range(12):
        store.add(replace(step_report(step, step + 1.0, is_skip=step == 7), loss=float(step)))
    store.set_status(replace(STATUS, version=12, events=(event,), workers=(worker,)), at=20.0)
    return store


def app_of_a_closed_feed() -> FastAPI:
    """As when the process stops: only so does the stream of events come to an end."""
    store = filled()
    store.feed.close()
    return create_app(store)


APP = app_of_a_closed_feed()
# A document cannot say that `to` is not below `from`, or which series a job has: refusing those is right.
CONFIG = SchemathesisConfig.from_dict({"checks": {"positive_data_acceptance": {"enabled": False}}})
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP, config=CONFIG)


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Half of the calls are about what there is: an unknown job is always the same 404."""
    known = {"job": "lenet", "step": 3, "slice": "conv1.weight"}
    if path_parameters and sum(map(ord, str(path_parameters))) % 2:
        return {name: known.get(name, value) for name, value in path_parameters.items()}
    return path_parameters


@SCHEMA.parametrize()
@SETTINGS
def test_no_input_is_an_error_of_ours_or_answered_otherwise_than_described(case: Any) -> None:
    """Status, media type, headers and body are as described, and what the description forbids is refused."""
    case.call_and_validate()


@pytest.mark.parametrize("query", ["?job=nobody", "?job=", "?job=%00", "?job=" + "x" * 5_000])
def test_a_stream_of_a_job_that_is_not_there_is_refused_before_it_begins(query: str) -> None:
    response = Browser(APP).get(f"/api/v1/events{query}")
    assert response.status_code == 404
    assert "known: lenet" in response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/series?from=-1", "from"),
        ("/series?to=x", "to"),
        ("/series?from=9&to=3", "to"),
        ("/series?points=0", "points"),
        ("/series?names=nothing", "names"),
        ("/heatmap?value=colour", "value"),
        ("/heatmap?columns=1e9", "columns"),
        ("/events?kind=party", "kind"),
        ("/steps?limit=-5", "limit"),
    ],
)
def test_a_bad_value_is_422_and_names_its_field(path: str, field: str) -> None:
    response = Browser(APP).get(f"/api/v1/jobs/lenet{path}")
    assert response.status_code == 422
    assert any(field in error["loc"] for error in response.json()["detail"]), response.text


@pytest.mark.parametrize("path", ["/steps?limit=999999", "/steps?limit=999999&from=0"])
def test_a_huge_page_is_capped_and_says_so(path: str) -> None:
    response = Browser(APP).get(f"/api/v1/jobs/lenet{path}")
    assert response.status_code == 200
    assert response.headers["x-limit-capped"] == "2000"
