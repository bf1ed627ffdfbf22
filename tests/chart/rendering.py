"""The chart as helm renders it: objects, refusals, and the parts of pods that tests ask for."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tests.chart.get_helm import found_helm
from tests.conftest import require

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "sheepfold"
VALUES = sorted(CHART.glob("ci/*-values.yaml"))
MONITORING_KINDS = "monitoring.coreos.com/v1/ServiceMonitor,monitoring.coreos.com/v1/PrometheusRule"
RELEASE, NAMESPACE = "fold", "training"
SECONDS_MAX = 60

Object = dict[str, Any]
did: Counter[str] = Counter()
"""What the checks of this process did, for the summary of `make chart`."""


def helm(
    major: int, *arguments: str | Path, values: str = "", home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`values`: a document, as standard input; `home`: a folder with `kubeconfig`, to talk to a cluster."""
    binary = found_helm(major)
    if not binary:
        require("helm", f"helm {major} is not installed; `make chart-tools`")
    return subprocess.run(
        [binary, *map(str, arguments)],
        input=values,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
        env=None if home is None else {"HOME": str(home), "KUBECONFIG": str(home / "kubeconfig")},
    )


@cache
def rendered_text(values: str = "", kube: str = "1.37.0", major: int = 4, extra_kinds: str = "") -> str:
    """Of these values (YAML); raises AssertionError with what helm said."""
    arguments = ["template", RELEASE, CHART, "--namespace", NAMESPACE, "--kube-version", kube, "-f", "-"]
    if extra_kinds:
        arguments += ["--api-versions", extra_kinds]
    done = helm(major, *arguments, values=values)
    assert done.returncode == 0, done.stderr
    did["renders"] += 1
    return done.stdout


@cache
def render(values: str = "", kube: str = "1.37.0", major: int = 4) -> list[Object]:
    """Every object, with those of hooks, tests and the monitoring's kinds: to read, not to change."""
    text = rendered_text(values, kube, major, MONITORING_KINDS)
    found = [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]
    did["objects"] += len(found)
    return found


def refusal(values: str, major: int = 4) -> str:
    """What helm says instead of rendering, with whitespace as single spaces."""
    done = helm(major, "template", RELEASE, CHART, "--namespace", NAMESPACE, "-f", "-", values=values)
    assert done.returncode != 0, f"rendered in spite of {values}"
    return " ".join(done.stderr.split())


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def pod_of(owner: Object) -> Object | None:
    """Metadata and spec of the pods that an object makes."""
    if owner["kind"] == "Pod":
        return owner
    template = owner.get("spec", {}).get("template")
    return template if isinstance(template, dict) and "spec" in template else None


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """(kind/name of the owner, pod)"""
    for each in objects:
        pod = pod_of(each)
        if pod is not None:
            yield f"{each['kind']}/{each['metadata']['name']}", pod


def containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for name, pod in pods(objects):
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            yield f"{name}/{container['name']}", container


def selects(labels: dict[str, str], pod: Object) -> bool:
    return bool(labels) and labels.items() <= pod["metadata"].get("labels", {}).items()


def shard_container(values: str = "") -> Object:
    (found,) = (each for name, each in containers(render(values)) if name.endswith("-shard/shard"))
    return found


def schema() -> Object:
    found: Object = json.loads((CHART / "values.schema.json").read_text())
    return found
