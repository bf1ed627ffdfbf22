"""The dashboard's API and pages over a store filled through its public door."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
from tests.fake_server import job_of
from tests.unit.browser import Browser
from tests.unit.monitored import STATUS, step_report

from sheepfold_server.dashboard.access.headers import HEADERS
from sheepfold_server.dashboard.access.table import ROUTES
from sheepfold_server.dashboard.app import create_app
from sheepfold_server.dashboard.history.history import History
from sheepfold_server.dashboard.store import Store
from sheepfold_wire.manifest import Manifest, TensorSpec

API = "/api/v1/jobs/lenet"
PAGES = ["/", "/docs", "/openapi.json", "/static/page.js", "/static/page.css", "/static/icon.svg"]


@pytest.fixture
def store() -> Store:
    """Four steps, one of them skipped; statuses two seconds and two steps apart."""
    store = Store()
    store.set_trouble("")
    store.set_jobs(("lenet",))
    store.set_status(replace(STATUS, version=2, samples_committed=2048), at=100.0)
    for step, ratio in enumerate((1.0, 4.0, 0.5)):
        store.add(step_report(step, ratio))
    store.add(step_report(3, is_skip=True))
    store.set_status(STATUS, at=102.0)
    return store


@pytest.fixture
def client(store: Store) -> Browser:
    return Browser(create_app(store))


def answer(response: httpx.Response) -> object:
    assert response.status_code == 200, response.text
    return response.json()


# --- jobs ---------------------------------------------------------------------------------------------


def test_jobs_are_listed(client: Browser) -> None:
    assert answer(client.get("/api/v1/jobs")) == [
        {
            "job": "lenet",
            "state": "running",
            "why": "",
            "version": 4,
            "stop_steps": 300,
            "kept_until_seconds": None,
        }
    ]


def test_job_says_who_is_waited_for_and_where_every_slot_went(client: Browser) -> None:
    job = client.get(API).json()
    assert job["waiting_for"] == STATUS.waiting_for
    counts = job["counts"]
    assert counts["leased"] == sum(counts[key] for key in ("committed", "skipped", "dropped", "outstanding"))


def test_workers_and_shards_are_shown(client: Browser) -> None:
    assert [w["worker"] for w in client.get(f"{API}/workers").json()] == ["worker-a"]
    assert [s["is_connected"] for s in client.get(f"{API}/shards").json()] == [True, False]


def test_throughput_is_what_moved_between_two_looks(client: Browser) -> None:
    assert answer(client.get(f"{API}/throughput")) == {
        "steps_per_second": 1.0,
        "samples_per_second": 1024.0,
        "bytes_in_per_second": 1000.0,
        "bytes_out_per_second": 500.0,
    }


def test_throughput_of_a_stalled_job_falls_to_zero(client: Browser, store: Store) -> None:
    for second in range(103, 120):
        store.set_status(STATUS, at=float(second))
    assert client.get(f"{API}/throughput").json()["steps_per_second"] == 0.0


# --- steps --------------------------------------------------------------------------------------------


def test_steps_have_every_promised_fact(client: Browser) -> None:
    first = client.get(f"{API}/steps").json()[0]
    wanted = {
        "learning_rate",
        "loss",
        "gradient_norm",
        "clip_scale",
        "samples",
        "wait_seconds",
        "prepare_seconds",
    }
    assert wanted | {"apply_seconds", "is_skip", "skip_reason", "bytes_in", "bytes_out"} <= first.keys()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [0, 1, 2, 3]),
        ("?limit=2", [2, 3]),
        ("?from=1&limit=2", [1, 2]),
        ("?from=3", [3]),
        ("?from=4", []),
    ],
)
def test_range_of_steps(client: Browser, query: str, expected: list[int]) -> None:
    assert [step["step"] for step in client.get(f"{API}/steps{query}").json()] == expected


@pytest.mark.parametrize(
    "query", ["?from=-1", "?from=x", "?limit=0", "?from=1e3", f"?from={10**30}", "?from=3&to=2"]
)
def test_bad_range_is_refused(client: Browser, query: str) -> None:
    assert client.get(f"{API}/steps{query}").status_code == 422


@pytest.mark.parametrize("path", ["/steps?form=1", "/steps.csv?Limit=2", "/slices?limit=3", "/alerts?x="])
def test_parameter_that_is_not_known_is_refused_by_its_name(client: Browser, path: str) -> None:
    refused, given = client.get(f"{API}{path}"), path.partition("?")[2].partition("=")[0]
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["query", given]
    assert "known: " in refused.json()["detail"][0]["msg"]


def test_page_of_steps_is_capped_and_says_so(client: Browser) -> None:
    response = client.get(f"{API}/steps?limit=2001")
    assert (response.status_code, response.headers["x-limit-capped"]) == (200, "2000")
    assert "x-limit-capped" not in client.get(f"{API}/steps?limit=2000").headers


@pytest.mark.parametrize("page", ["steps.csv", "events.csv"])
def test_page_of_a_table_is_capped_and_says_so(client: Browser, page: str) -> None:
    """A table has no place for it but a header."""
    response = client.get(f"{API}/{page}?limit=2001")
    assert (response.status_code, response.headers["x-limit-capped"]) == (200, "2000")
    assert "x-limit-capped" not in client.get(f"{API}/{page}?limit=2000").headers


def test_one_step_has_slices_and_slots(client: Browser) -> None:
    step = client.get(f"{API}/steps/1").json()
    assert [(s["name"], s["trust_ratio"]) for s in step["slices"]] == [
        ("conv1.weight", 4.0),
        ("conv1.bias", 8.0),
    ]
    assert [slot["worker"] for slot in step["slots"]] == ["worker-a", "worker-a"]


def test_skipped_step_says_why_and_has_no_slices(client: Browser) -> None:
    step = client.get(f"{API}/steps/3").json()
    assert (step["is_skip"], step["skip_reason"], step["slices"]) == (True, "a gradient was not finite", [])


def test_norms_are_those_of_the_newest_applied_step_with_the_range_of_all(client: Browser) -> None:
    first, second = client.get(f"{API}/slices").json()
    assert first == {
        "slice": 0,
        "name": "conv1.weight",
        "w_norm": 2.0,
        "u_norm": 1.0,
        "g_norm": 0.5,
        "trust_ratio": 0.5,
        "clamp": "",
        "trust_ratio_min": 0.5,
        "trust_ratio_max": 4.0,
        "trust_ratio_drift": 0.5,
        "steps_clamped": 0,
        "noise_scale": None,
    }
    assert (second["trust_ratio_min"], second["trust_ratio_max"]) == (1.0, 8.0)
    assert (second["clamp"], second["steps_clamped"]) == ("ratio", 3)


def test_a_number_that_is_not_finite_is_null(client: Browser, store: Store) -> None:
    """JSON has no NaN; a browser would refuse the whole answer."""
    store.add(replace(step_report(4), gradient_norm=math.nan, loss=math.inf))
    step = answer(client.get(f"{API}/steps/4"))
    assert isinstance(step, dict)
    assert (step["gradient_norm"], step["loss"]) == (None, None)


# --- what is kept -------------------------------------------------------------------------------------


def test_report_sent_twice_is_kept_once(client: Browser, store: Store) -> None:
    store.add(step_report(2))
    assert len(client.get(f"{API}/steps").json()) == 4


def test_another_lineage_begins_anew_and_the_old_one_stays_readable(client: Browser, store: Store) -> None:
    store.set_status(replace(STATUS, lineage="new", version=0), at=103.0)
    assert answer(client.get(f"{API}/steps")) == []
    assert store.newest_version("lenet") == 0
    assert [step["step"] for step in client.get(f"{API}/steps?lineage=abc").json()] == [0, 1, 2, 3]
    assert client.get(f"{API}/lineages").json()["lineages"] == [
        {"lineage": "abc", "first_step": 0, "last_step": 3, "is_current": False},
        {"lineage": "new", "first_step": 0, "last_step": -1, "is_current": True},
    ]


# --- the model and where it lies ------------------------------------------------------------------------

TENSORS = (
    TensorSpec("wide", (3000, 1024), "bfloat16", "parameter", (1000, 2000)),
    TensorSpec("bias", (5,), "float32", "parameter"),
    TensorSpec("mean", (7,), "float32", "statistic"),
    TensorSpec("count", (), "int64", "statistic"),
)


def test_model_says_which_shard_holds_how_many_bytes_of_each_tensor(client: Browser, store: Store) -> None:
    manifest, job = Manifest(TENSORS), job_of(placement={"split_above_bytes": 1 << 20})
    store.set_status(replace(STATUS, manifest_digest=manifest.digest, config_json=job.to_json()), at=103.0)
    early = client.get(f"{API}/model")
    assert (early.status_code, "not been read yet" in early.text) == (404, True)
    store.set_manifest("lenet", manifest)
    found = client.get(f"{API}/model").json()
    assert (found["digest"], found["parameters"], found["tensors_total"]) == (manifest.digest, 3072005, 4)
    wide, bias, mean, number = found["tensors"]
    assert (wide["shape"], wide["dtype"], wide["slices"], mean["slices"]) == ([3000, 1024], "bfloat16", 2, 0)
    assert [held["shard"] for held in wide["shards"]] == [0, 1]
    assert sum(held["bytes"] for held in wide["shards"]) == 4 * 3000 * 1024
    assert [sum(held["bytes"] for held in each["shards"]) for each in (bias, mean, number)] == [20, 28, 8]
    for total in found["shards"]:
        parts = [h for each in found["tensors"] for h in each["shards"] if h["shard"] == total["shard"]]
        assert (total["bytes"], total["elements"]) == tuple(
            sum(h[name] for h in parts) for name in ("bytes", "elements")
        )


def test_model_is_told_page_by_page(client: Browser, store: Store) -> None:
    manifest, job = Manifest(TENSORS), job_of()
    store.set_status(replace(STATUS, manifest_digest=manifest.digest, config_json=job.to_json()), at=103.0)
    store.set_manifest("lenet", manifest)
    found = client.get(f"{API}/model?from=1&limit=2").json()
    assert [each["name"] for each in found["tensors"]] == ["bias", "mean"]
    assert (found["tensors_total"], found["parameters"]) == (4, 3072005)
    assert client.get(f"{API}/model?limit=10001").headers["x-limit-capped"] == "10000"


def test_job_without_a_model_has_no_tensors_yet(client: Browser, store: Store) -> None:
    store.set_status(replace(STATUS, manifest_digest=""), at=103.0)
    assert client.get(f"{API}/model").json()["tensors_total"] == 0


def test_model_of_another_number_of_shards_is_laid_out_anew(client: Browser, store: Store) -> None:
    manifest, job = Manifest(TENSORS), job_of()
    status = replace(STATUS, manifest_digest=manifest.digest, config_json=job.to_json())
    store.set_status(status, at=103.0)
    store.set_manifest("lenet", manifest)
    assert not store.lacks_manifest("lenet")
    store.set_status(replace(status, shards=status.shards[:1]), at=104.0)
    assert store.lacks_manifest("lenet")
    store.set_manifest("lenet", manifest)
    assert [held["shard"] for held in client.get(f"{API}/model").json()["shards"]] == [0]


def test_model_of_a_job_under_the_name_of_a_deleted_one_is_read_anew(client: Browser, store: Store) -> None:
    """Between two looks one job may be deleted and another created: its lineage says so."""
    before, job = Manifest(TENSORS), job_of()
    status = replace(STATUS, manifest_digest=before.digest, config_json=job.to_json())
    store.set_status(status, at=103.0)
    store.set_manifest("lenet", before)
    after = Manifest(TENSORS[:1])
    store.set_status(replace(status, lineage="another", manifest_digest=after.digest), at=104.0)
    assert store.lacks_manifest("lenet")
    store.set_manifest("lenet", after)
    assert client.get(f"{API}/model").json()["tensors_total"] == 1


# --- jobs that only the history tells of --------------------------------------------------------------

KEPT = ["steps", "steps.csv", "steps/1", "slices", "slices.csv", "series", "series.csv", "slices/0/series"]
KEPT += ["slices/0/series.csv", "heatmap", "events", "events.csv", "alerts", "lineages"]
ONLY_LIVE = ["config", "model", "workers", "shards", "throughput", "schedule", "forecast", "stall"]


def test_routes_of_a_job_are_known_to_be_kept_or_not() -> None:
    """Whoever adds a route says here what becomes of it without a coordinator."""
    ours = {path.replace("{step}", "1").replace("{slice:path}", "0") for path in ROUTES if "{job}/" in path}
    assert {path.partition("{job}/")[2] for path in ours} == {*KEPT, *ONLY_LIVE}


@pytest.mark.parametrize("path", KEPT)
def test_what_was_kept_of_a_job_that_is_gone_is_answered_as_before(
    client: Browser, store: Store, path: str
) -> None:
    before = client.get(f"{API}/{path}")
    store.set_jobs(("bert",))
    after = client.get(f"{API}/{path}")
    assert (before.status_code, after.status_code) == (200, 200)
    assert after.text == before.text


@pytest.mark.parametrize("path", ONLY_LIVE)
def test_what_only_a_coordinator_can_tell_of_a_job_that_is_gone_is_404_and_says_so(
    client: Browser, store: Store, path: str
) -> None:
    store.set_jobs(())
    response = client.get(f"{API}/{path}")
    assert response.status_code == 404
    assert response.json()["detail"].startswith(
        "job 'lenet' is not listed, and this is what only the coordinator can tell: the coordinator does not "
        "list this job (any more); what was kept of it until 20"
    )


def test_job_that_is_gone_is_listed_as_what_was_kept_of_it() -> None:
    store = Store(clock=lambda: 1_764_000_000.0)
    store.set_jobs(("lenet",))
    store.set_status(STATUS, at=0.0)
    store.add(replace(step_report(3), committed_at=1_764_000_060.0))
    store.set_jobs(())
    client = Browser(create_app(store))
    kept = {
        "job": "lenet",
        "state": "not listed",
        "why": "the coordinator does not list this job (any more); what was kept of it until "
        "2025-11-24 16:01:00 UTC is shown",
        "version": 4,
        "stop_steps": None,
        "kept_until_seconds": 1_764_000_060.0,
    }
    assert answer(client.get("/api/v1/jobs")) == [kept]
    assert answer(client.get(API)) == {**kept, "lineage": "abc"}
    store.set_jobs(("lenet",))
    store.set_status(STATUS, at=1.0)
    assert [job["state"] for job in client.get("/api/v1/jobs").json()] == ["running"]


def test_before_the_coordinator_is_heard_a_job_is_unknown_and_not_gone(tmp_path: Path) -> None:
    history = History(tmp_path / "history.sqlite")
    store = Store(history)
    store.set_jobs(("lenet",))
    store.set_status(STATUS, at=0.0)
    store.add(step_report(3))
    history.close()
    history = History(tmp_path / "history.sqlite")
    store = Store(history)
    client = Browser(create_app(store))
    for _ in ("the coordinator does not answer", "it does, and the status is yet to be read"):
        (job,) = client.get("/api/v1/jobs").json()
        assert job["state"] == "unknown"
        assert job["why"].startswith("the coordinator was not heard since this dashboard was started")
        assert [step["step"] for step in client.get(f"{API}/steps").json()] == [3]
        store.set_jobs(("lenet",))
    history.close()


def test_stream_of_a_job_that_is_gone_tells_no_status_of_it(store: Store) -> None:
    """A page would take it for the present one."""
    client = Browser(create_app(store))
    store.set_jobs(())
    store.feed.flush(1_000.0)
    store.feed.close()
    response = client.get("/api/v1/events?job=lenet")
    assert (response.status_code, "event: status" in response.text) == (200, False)


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/steps", "/steps/0", "/slices", "/throughput", "/workers", "/shards"])
def test_unknown_job_is_404_and_says_what_exists(client: Browser, path: str) -> None:
    response = client.get(f"/api/v1/jobs/bert{path}")
    assert response.status_code == 404
    assert "'bert'" in response.json()["detail"]
    assert "known: lenet" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v1/jobs/", f"{API}/nothing", "/nowhere"])
def test_unknown_address_is_404_and_leads_to_the_reference(client: Browser, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, "/docs" in response.json()["detail"]) == (404, True)


@pytest.mark.parametrize("step", [4, -1, 10**30])
def test_unknown_step_is_404_and_says_what_is_kept(client: Browser, step: int) -> None:
    response = client.get(f"{API}/steps/{step}")
    assert response.status_code == 404
    assert "steps 0 to 3" in response.json()["detail"]


def test_health_is_of_this_process_and_readiness_of_the_coordinator(client: Browser, store: Store) -> None:
    store.set_trouble("no coordinator answers at 127.0.0.1:7070")
    assert client.get("/healthz").status_code == 200
    response = client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (
        503,
        "no coordinator answers at 127.0.0.1:7070",
    )
    store.set_trouble("")
    assert client.get("/readyz").status_code == 200


# --- pages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_page_is_served_with_a_policy_that_keeps_other_hosts_out(client: Browser, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert response.headers["x-content-type-options"] == "nosniff"


def test_refusals_have_the_policy_too(client: Browser) -> None:
    assert client.get("/nowhere").headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("path", PAGES)
def test_page_names_no_other_host(client: Browser, path: str) -> None:
    """The URLs allowed are names of XML languages, which nothing fetches."""
    text = re.sub(r"http://www\.w3\.org/(2000/svg|1999/xhtml|1998/Math/MathML)", "", client.get(path).text)
    assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page_needs_nothing_inline(client: Browser, path: str) -> None:
    """The policy would block it: inline scripts, handlers and styles."""
    text = client.get(path).text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", text)


def test_reference_names_every_operation_and_field(client: Browser) -> None:
    page, described = client.get("/docs").text, client.get("/openapi.json").json()
    for path in described["paths"]:
        assert path in page
    for name, schema in described["components"]["schemas"].items():
        assert f'id="{name}"' in page
        for field in schema.get("properties", {}):
            assert f"<code>{field}</code>" in page


def test_every_field_of_our_answers_is_described(client: Browser) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    ours = {name: schema for name, schema in schemas.items() if "Validation" not in name}
    missing = [
        f"{name}.{field}"
        for name, schema in ours.items()
        for field, described in schema["properties"].items()
        if not described.get("description") and "$ref" not in described
    ]
    assert missing == []


def test_static_files_travel_with_the_package() -> None:
    names = {entry.name for entry in (files("sheepfold_server.dashboard") / "static").iterdir()}
    assert {"index.html", "page.js", "page.css", "icon.svg"} <= names
