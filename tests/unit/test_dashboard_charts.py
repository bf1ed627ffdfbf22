"""Charts, events and forecasts of the dashboard's API, as JSON and as CSV."""

from __future__ import annotations

import base64
import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.browser import Browser
from tests.unit.monitored import STATUS, step_report

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.app import create_app
from sheepfold_server.dashboard.forecast import forecast
from sheepfold_server.dashboard.store import Store
from sheepfold_wire.job import parse_job

API = "/api/v1/jobs/lenet"
NOW = 1_764_000_000.0
JOB = parse_job(
    {
        "name": "lenet",
        "batch": {
            "samples": 64,
            "slot_samples": 8,
            "stage": [{"steps": 100}, {"steps": 200, "samples": 128}],
        },
        "data": {"samples": 1000},
        "optimizer": {"lr": {"peak": 0.01, "schedule": "poly"}},
        "stop": {"steps": 300},
    }
)


@pytest.fixture
def store() -> Store:
    """Forty steps of which the last was skipped; step i has the loss i and the ratio i + 1."""
    seconds = iter(NOW + i for i in range(10_000))
    store = Store(clock=lambda: next(seconds))
    store.set_jobs(("lenet",))
    store.set_status(replace(STATUS, config_json=JOB.to_json(), version=0), at=0.0)
    for step in range(40):
        metrics = (m.Metric("accuracy", step / 40),)
        store.add(
            replace(step_report(step, step + 1.0, is_skip=step == 39), loss=float(step), metrics=metrics)
        )
    store.set_status(replace(STATUS, config_json=JOB.to_json(), version=40), at=20.0)
    return store


@pytest.fixture
def client(store: Store) -> Browser:
    return Browser(create_app(store))


def answer(client: Browser, path: str) -> Any:
    response = client.get(f"{API}{path}")
    assert response.status_code == 200, response.text
    return response.json()


def table(client: Browser, path: str) -> list[list[str]]:
    response = client.get(f"{API}{path}")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    return list(csv.reader(io.StringIO(response.text)))


# --- series -------------------------------------------------------------------------------------------


def test_series_of_single_steps_have_one_value_each(client: Browser) -> None:
    found = answer(client, "/series?names=loss,metric:accuracy&from=10&to=12")
    assert (found["job"], found["lineage"], found["steps_per_point"]) == ("lenet", "abc", 1)
    assert found["step"] == [10, 11, 12]
    assert found["samples"] == [11 * 256, 12 * 256, 13 * 256]
    assert found["series"]["loss"] == {key: [10.0, 11.0, 12.0] for key in ("min", "mean", "max")}
    assert found["series"]["metric:accuracy"]["mean"] == [0.25, 0.275, 0.3]
    assert np.diff(found["seconds"]).tolist() == [1.0, 1.0]


def test_merged_points_keep_the_extremes(client: Browser) -> None:
    found = answer(client, "/series?names=loss&points=4")
    assert (found["steps_per_point"], found["step"]) == (10, [0, 10, 20, 30])
    assert found["series"]["loss"]["min"] == [0, 10, 20, 30]
    assert found["series"]["loss"]["mean"] == [4.5, 14.5, 24.5, 34.5]
    assert found["series"]["loss"]["max"] == [9, 19, 29, 39]


def test_answer_names_every_series_there_is(client: Browser) -> None:
    available = answer(client, "/series")["available"]
    promised = {"loss", "learning_rate", "gradient_norm", "clip_scale", "samples", "weight", "step_seconds"}
    promised |= {"wait_seconds", "prepare_seconds", "apply_seconds", "bytes_in", "bytes_out", "is_skip"}
    promised |= {"slots_leased_again", "noise_scale", "samples_per_second", "metric:accuracy"}
    promised |= {"fold_seconds", "commit_seconds", "update_seconds", "staleness_steps"}
    assert set(available) == promised
    found = answer(client, f"/series?names={','.join(available)}&from=39")["series"]
    assert found["is_skip"]["mean"] == [1.0]
    assert found["step_seconds"]["mean"] == pytest.approx([0.23])
    assert found["samples_per_second"]["mean"] == pytest.approx([256 / 0.23])


def test_value_that_no_step_has_is_null(client: Browser) -> None:
    found = answer(client, "/series?names=noise_scale,metric:f1&from=38")["series"]
    assert found["noise_scale"] == found["metric:f1"] == {key: [None, None] for key in ("min", "mean", "max")}


@pytest.mark.parametrize("path", ["/series?from=40", "/heatmap?from=40", "/slices/0/series?from=40"])
def test_range_without_steps_is_an_empty_chart(client: Browser, path: str) -> None:
    assert answer(client, path)["step"] == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/series?names=los", "names"),
        ("/series?points=0", "points"),
        ("/series?points=5001", "points"),
        ("/series?from=3&to=2", "to"),
        ("/heatmap?value=loss", "value"),
        ("/heatmap?columns=x", "columns"),
        ("/events?kind=party", "kind"),
        ("/schedule?points=-1", "points"),
    ],
)
def test_bad_query_is_refused_and_the_field_named(client: Browser, path: str, field: str) -> None:
    response = client.get(f"{API}{path}")
    assert response.status_code == 422
    assert field in response.json()["detail"][0]["loc"]


@pytest.mark.parametrize(
    "path",
    ["/series", "/heatmap", "/slices/0/series", "/events", "/lineages", "/schedule", "/forecast", "/stall"],
)
def test_unknown_job_is_404_and_says_what_exists(client: Browser, path: str) -> None:
    response = client.get(f"/api/v1/jobs/bert{path}")
    assert (response.status_code, "known: lenet" in response.json()["detail"]) == (404, True)


def test_unknown_lineage_is_404_and_says_what_exists(client: Browser) -> None:
    response = client.get(f"{API}/series?lineage=xyz")
    assert (response.status_code, "known: abc" in response.json()["detail"]) == (404, True)


# --- slices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["1", "conv1.bias"])
def test_slice_is_found_by_number_and_by_name(client: Browser, key: str) -> None:
    found = answer(client, f"/slices/{key}/series?from=36")
    assert (found["slice"], found["name"], found["step"]) == (1, "conv1.bias", [36, 37, 38])
    assert found["series"]["trust_ratio"]["mean"] == [74.0, 76.0, 78.0]
    assert found["series"]["clamped"]["mean"] == [1.0, 1.0, 1.0]
    assert list(found["series"]) == ["trust_ratio", "weight_norm", "update_norm", "gradient_norm", "clamped"]


@pytest.mark.parametrize("key", ["2", "-1", "conv9", "99999999999", "a/b"])
def test_unknown_slice_is_404_and_says_what_exists(client: Browser, key: str) -> None:
    response = client.get(f"{API}/slices/{key}/series")
    assert response.status_code == 404
    assert "known: 0 to 1, or conv1.weight, conv1.bias" in response.json()["detail"]


def test_heat_map_is_packed_row_by_row(client: Browser) -> None:
    found = answer(client, "/heatmap?columns=4&to=38")
    shape = (len(found["slices"]), len(found["step"]))
    data = np.frombuffer(base64.b64decode(found["data"]), "<f4").reshape(shape)
    clamped = np.frombuffer(base64.b64decode(found["clamped"]), "u1").reshape(shape)
    assert (found["slices"], found["steps_per_column"]) == (["conv1.weight", "conv1.bias"], 10)
    assert data.tolist() == [[5.5, 15.5, 25.5, 35.0], [11.0, 31.0, 51.0, 70.0]]
    assert clamped.tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]


# --- events -------------------------------------------------------------------------------------------


def told(number: int, step: int, kind: str, text: str, author: str = "", age_seconds: float = 0.0) -> m.Event:
    return m.Event(number, age_seconds, step, kind, author, text)


HAPPENED = (
    told(1, 0, "attach", "worker worker-a attached from host-a, pid 4711, cpu", age_seconds=5.0),
    told(2, 39, "skip", "step 39 is skipped: a gradient was not finite"),
    told(3, 40, "state", "paused: by ada"),
    told(4, 50, "change", "lr.peak 0.01 -> 0.02", "ada"),
)


@pytest.fixture
def happened(store: Store) -> Store:
    """The coordinator has told its events twice, the last one only the second time."""
    store.set_status(replace(STATUS, events=HAPPENED[:3]), at=30.0)
    store.set_status(replace(STATUS, events=HAPPENED), at=31.0)
    return store


def test_events_tell_what_happened_once_and_in_order(client: Browser, happened: Store) -> None:
    happened.set_status(replace(STATUS, events=HAPPENED), at=32.0)
    events = answer(client, "/events")["events"]
    assert [event["kind"] for event in events] == ["lineage", "attach", "skip", "state", "change"]
    assert [event["step"] for event in events] == [0, 0, 39, 40, 50]
    assert (events[4]["author"], events[4]["text"]) == ("ada", "lr.peak 0.01 -> 0.02")
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    assert events[2]["seconds"] - events[1]["seconds"] == pytest.approx(5.0)


def test_events_are_not_told_again_by_a_dashboard_that_was_restarted(happened: Store) -> None:
    again = Store(happened.history, clock=lambda: 9_000.0)
    again.set_jobs(("lenet",))
    again.set_status(replace(STATUS, events=HAPPENED), at=0.0)
    events = again.history.events("lenet", "abc", None, None, (), 100)
    assert [event.kind for event in events] == ["lineage", "attach", "skip", "state", "change"]


def test_events_are_cut_to_range_kind_and_limit(client: Browser, happened: Store) -> None:
    found = answer(client, "/events?from=1&to=40")["events"]
    assert [event["kind"] for event in found] == ["skip", "state"]
    found = answer(client, "/events?kind=attach&kind=skip")["events"]
    assert [event["kind"] for event in found] == ["attach", "skip"]
    page = answer(client, "/events?limit=1")
    assert (len(page["events"]), page["limit"], page["capped"]) == (1, 1, False)
    page = answer(client, "/events?limit=100000")
    assert (page["limit"], page["capped"]) == (2_000, True)


def test_a_coordinator_that_began_again_is_a_restart(client: Browser, store: Store) -> None:
    store.set_status(replace(STATUS, term=2), at=30.0)
    last = answer(client, "/events")["events"][-1]
    assert (last["kind"], last["text"]) == ("restart", "the coordinator began term 2 (before: 1)")


def test_workers_tell_what_they_measured(client: Browser, store: Store) -> None:
    usage = m.WorkerUsage(
        8.0,
        2.0,
        0.004,
        (m.ShardTraffic(0, 100, 2.0, 0, 0.0, "shared memory"), m.ShardTraffic(1, 50, 1.0, 40, 4.0, "grpc")),
    )
    worker = replace(STATUS.workers[0], usage=usage, zone="z1", refused=2)
    store.set_status(replace(STATUS, workers=(worker,)), at=30.0)
    (found,) = answer(client, "/workers")
    assert (found["zone"], found["refused"], found["data_wait_share"]) == ("z1", 2, 0.25)
    assert found["way"] == "grpc, shared memory"
    assert (found["up_bytes_per_second"], found["down_bytes_per_second"]) == (100.0, 10.0)
    assert found["traffic"][0]["down_bytes_per_second"] is None


def test_the_configuration_is_told_as_it_is(client: Browser, store: Store) -> None:
    assert answer(client, "/config")["batch"]["samples"] == 64


# --- what is to come ----------------------------------------------------------------------------------


def test_schedule_runs_from_the_first_step_to_the_last(client: Browser) -> None:
    found = answer(client, "/schedule?points=3")
    assert found["step"] == [0, 150, 299]
    assert (found["slots"], found["slot_samples"]) == ([8, 16, 16], [8, 8, 8])
    assert found["learning_rate"][0] > found["learning_rate"][1] > found["learning_rate"][2]


def test_forecast_divides_what_is_left_by_the_present_rate(client: Browser) -> None:
    assert answer(client, "/forecast") == {
        "eta_seconds": 260 / 2.0,
        "steps_left": 260,
        "goodput": 32 / 35,
        "waste": {"leased_again": 2, "skipped": 0},
    }


def test_forecast_of_a_job_that_does_not_move_has_no_end(client: Browser, store: Store) -> None:
    store.set_status(replace(STATUS, steps_per_second=0.0), at=100.0)
    store.set_status(replace(STATUS, steps_per_second=0.0), at=200.0)
    assert answer(client, "/forecast")["eta_seconds"] is None


@pytest.mark.parametrize(
    ("waited_seconds", "eta_seconds"), [(0.0, 2600.0), (29.0, 2600.0), (31.0, None), (3600.0, None)]
)
def test_rate_of_before_holds_for_slow_steps_and_not_for_a_job_that_stands_still(
    waited_seconds: float, eta_seconds: float | None
) -> None:
    """The coordinator's rate falls slowly while nothing moves: the end would only move away."""
    slow = replace(STATUS, version=40, steps_per_second=0.1)
    found = forecast(slow, steps_per_second=0.0, waited_seconds=waited_seconds)
    assert found.eta_seconds == (None if eta_seconds is None else pytest.approx(eta_seconds))


def test_stall_says_what_is_waited_for_since_when_and_what_is_next(client: Browser, store: Store) -> None:
    waits = (
        "slot 3 of step 40, leased to worker-a 2.4 s ago; its lease ends in 4.2 s unless it shows progress"
    )
    for at in (30.0, 31.0, 32.0):
        store.set_status(replace(STATUS, open_step=40, waiting_for=waits), at=at)
    found = answer(client, "/stall")
    assert found["text"] == f"step 40 waits for {waits}, no progress for {found['since_seconds']:.1f} s"
    assert (found["since_seconds"], found["next_seconds"]) == (3.0, 4.2)


def test_stall_of_a_paused_job_gives_its_reason(client: Browser, store: Store) -> None:
    store.set_status(replace(STATUS, state="paused", why="ada asked"), at=30.0)
    assert answer(client, "/stall")["text"] == "the job is paused: ada asked"


# --- CSV ----------------------------------------------------------------------------------------------


def test_series_as_csv_have_mean_and_extremes(client: Browser) -> None:
    rows = table(client, "/series.csv?names=loss,noise_scale&from=10&to=11&points=1")
    assert rows[0] == ["step", "seconds", "samples", "loss", "loss_min", "loss_max"] + [
        f"noise_scale{part}" for part in ("", "_min", "_max")
    ]
    assert rows[1][0] == "10"
    assert rows[1][3:] == ["10.5", "10.0", "11.0", "", "", ""]


@pytest.mark.parametrize(
    ("path", "column", "values"),
    [
        ("/steps.csv?from=38", "is_skip", ["false", "true"]),
        ("/slices.csv", "trust_ratio", ["39.0", "78.0"]),
        ("/slices/0/series.csv?from=37", "trust_ratio", ["38.0", "39.0"]),
        ("/events.csv?from=0", "kind", ["lineage"]),
    ],
)
def test_csv_has_a_line_for_each_row(client: Browser, path: str, column: str, values: list[str]) -> None:
    head, *rows = table(client, path)
    assert [row[head.index(column)] for row in rows] == values
