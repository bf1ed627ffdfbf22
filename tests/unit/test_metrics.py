"""What Prometheus reads: names by its rules, values that are the API's, labels that stay few."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.browser import Browser
from tests.unit.monitored import COUNTS, STATUS, step_report

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.alerts.rules import Limits
from sheepfold_server.dashboard.app import create_app
from sheepfold_server.dashboard.metrics.collector import SLICES_TOLD
from sheepfold_server.dashboard.metrics.totals import Distribution
from sheepfold_server.dashboard.store import Store


@pytest.fixture
def store() -> Store:
    """Four steps, the last one skipped; the second slice is pinned."""
    store = Store(clock=lambda: 50.0, limits=Limits(pinned_steps=2))
    store.set_trouble("")
    store.set_jobs(("lenet",))
    store.set_status(replace(STATUS, version=0), at=0.0)
    for step, ratio in enumerate((1.0, 4.0, 0.5)):
        store.add(step_report(step, ratio))
    store.add(step_report(3, is_skip=True))
    store.set_status(replace(STATUS, steps_skipped=1), at=10.0)
    return store


def families(store: Store) -> dict[str, Metric]:
    response = Browser(create_app(store)).get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def value(store: Store, name: str, **labels: str) -> float:
    samples = [sample for family in families(store).values() for sample in family.samples]
    (found,) = [sample.value for sample in samples if sample.name == name and sample.labels == labels]
    return found


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("sheepfold_job_version", {}, 4),
        ("sheepfold_job_state", {"state": "running"}, 1),
        ("sheepfold_steps_total", {"outcome": "applied"}, 3),
        ("sheepfold_steps_total", {"outcome": "skipped"}, 1),
        ("sheepfold_samples_total", {"outcome": "committed"}, 4096),
        ("sheepfold_slots_total", {"outcome": "dropped"}, COUNTS.dropped),
        ("sheepfold_slots_leased_again_total", {}, COUNTS.leased_again),
        ("sheepfold_workers", {"state": "holding"}, 1),
        ("sheepfold_shards", {"state": "away"}, 1),
        ("sheepfold_loss", {}, 1.5),
        ("sheepfold_gradient_norm", {}, 3.0),
        ("sheepfold_staleness_steps", {}, 3),
        ("sheepfold_trust_ratio", {"layer": "conv1.weight"}, 0.5),
        ("sheepfold_clamped_slices", {}, 1),
        ("sheepfold_parameter_norm", {}, 2.0),
        ("sheepfold_push_received_bytes_total", {}, 4000),
        ("sheepfold_pull_sent_bytes_total", {}, 2000),
        ("sheepfold_step_duration_seconds_count", {"phase": "wait"}, 4),
        ("sheepfold_step_duration_seconds_bucket", {"phase": "wait", "le": "0.1"}, 0),
        ("sheepfold_step_duration_seconds_bucket", {"phase": "wait", "le": "0.25"}, 4),
        ("sheepfold_trust_ratio_distribution_count", {}, 6),
        ("sheepfold_alerts", {"rule": "SlicePinned", "severity": "warning"}, 1),
    ],
)
def test_metric_has_the_value_that_the_api_shows(
    store: Store, name: str, labels: dict[str, str], expected: float
) -> None:
    assert value(store, name, job="lenet", **labels) == expected


def test_coordinator_that_does_not_answer_is_seen(store: Store) -> None:
    assert value(store, "sheepfold_coordinator_up") == 1
    store.set_trouble("no coordinator answers at 127.0.0.1:7070")
    assert value(store, "sheepfold_coordinator_up") == 0


def test_names_follow_the_rules_of_prometheus(store: Store) -> None:
    for name, family in families(store).items():
        assert re.fullmatch(r"sheepfold_[a-z][a-z_]*", name)
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent|minutes|hours)(_|$)", name), "base units only"
        assert family.documentation
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            assert not (sample.labels.keys() - {"job", "state"}) & set(name.split("_")), "no label in a name"


def test_big_model_has_labels_for_the_slices_that_drifted_most_only() -> None:
    store = Store()
    store.set_jobs(("lenet",))
    store.set_status(replace(STATUS, version=0), at=0.0)
    for step in range(5):
        slices = tuple(
            m.SliceFacts(i, f"layer{i}", 1.0, 1.0, 1.0, 1.0 + (i if step == 4 else 0)) for i in range(400)
        )
        store.add(replace(step_report(step), slices=slices))
    layers = [sample.labels["layer"] for sample in families(store)["sheepfold_trust_ratio"].samples]
    assert layers == [f"layer{i}" for i in range(399, 399 - SLICES_TOLD, -1)]
    assert value(store, "sheepfold_trust_ratio_distribution_count", job="lenet") == 2_000


def test_job_that_is_gone_leaves_no_labels(store: Store) -> None:
    store.set_jobs(())
    labels = [sample.labels for family in families(store).values() for sample in family.samples]
    assert [found for found in labels if "job" in found] == []


def test_distribution_counts_up_to_and_with_each_bound() -> None:
    found = Distribution((1.0, 2.0))
    found.add([0.5, 1.0, 1.5, 7.0])
    assert found.buckets() == [("1", 2.0), ("2", 3.0), ("+Inf", 4.0)]
    assert found.sum == 10.0
