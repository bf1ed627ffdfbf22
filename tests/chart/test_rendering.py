"""Every example renders with both helms, and an API server would take each object."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from tests.chart.rendering import CHART, ROOT, VALUES, Object, helm, of_kind, render

OLDEST, NEWEST = "1.28.0", "1.37.0"
NOT_KUBERNETES = {"ServiceMonitor", "PrometheusRule", "Certificate", "HTTPRoute"}
EXAMPLES = ["", *(path.read_text() for path in VALUES)]
EXAMPLE_NAMES = ["default", *(path.stem.removesuffix("-values") for path in VALUES)]
WORKER_JOB = ROOT / "deploy" / "examples" / "spot-workers.yaml"

every_example = pytest.mark.parametrize("values", EXAMPLES, ids=EXAMPLE_NAMES)
both_helms = pytest.mark.parametrize("major", [3, 4])


def refused_by_schema(each: Object, version: str) -> str:
    """Why an API server of that version refuses an object; empty if it takes it."""
    return _refused(json.dumps(each, sort_keys=True), version)


@cache
def _refused(text: str, version: str) -> str:
    """Examples have most objects in common."""
    each = json.loads(text)
    try:
        kubernetes_validate.validate(each, version.rpartition(".")[0], strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{each['kind']}/{each['metadata']['name']}: {error.message} at {list(error.path)}"
    return ""


@both_helms
@pytest.mark.parametrize("path", [None, *VALUES], ids=EXAMPLE_NAMES)
def test_strict_lint_finds_nothing(path: Path | None, major: int) -> None:
    done = helm(major, "lint", "--strict", CHART, *([] if path is None else ["-f", path]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"\[(WARNING|ERROR)\]", done.stdout)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@every_example
def test_api_server_would_take_every_object(values: str, version: str) -> None:
    objects = render(values, version)
    kubernetes = [each for each in objects if each["kind"] not in NOT_KUBERNETES]
    assert len(kubernetes) >= 15
    assert [why for why in (refused_by_schema(each, version) for each in kubernetes) if why] == []


@every_example
def test_both_helms_render_the_same(values: str) -> None:
    def sorted_objects(major: int) -> list[Object]:
        return sorted(render(values, major=major), key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert sorted_objects(3) == sorted_objects(4)


def test_validation_sees_an_unknown_field_and_a_wrong_type() -> None:
    (claim,) = of_kind(render(), "PersistentVolumeClaim")
    assert not refused_by_schema(claim, NEWEST)
    assert "sizes" in refused_by_schema(claim | {"spec": claim["spec"] | {"sizes": 1}}, NEWEST)
    assert "accessModes" in refused_by_schema(
        claim | {"spec": claim["spec"] | {"accessModes": "ReadWriteOnce"}}, NEWEST
    )


def test_kubernetes_before_1_28_is_refused() -> None:
    done = helm(4, "template", CHART, "--kube-version", "1.27.0")
    assert done.returncode != 0
    assert "1.28" in done.stderr


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_example_of_workers_is_valid(version: str) -> None:
    documents = [each for each in yaml.safe_load_all(WORKER_JOB.read_text()) if each]
    assert documents
    assert [refused_by_schema(each, version) for each in documents] == [""] * len(documents)


def test_monitoring_kinds_are_left_out_where_the_cluster_does_not_know_them() -> None:
    done = helm(4, "template", CHART)
    assert done.returncode == 0
    assert "monitoring.coreos.com" not in done.stdout
    assert len(of_kind(render(), "ServiceMonitor", "PrometheusRule")) == 2
