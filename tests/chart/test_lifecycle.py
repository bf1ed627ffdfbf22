"""A release from its installation to its end, by real helm against an API server of ours."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chart.fake_kube.api import FakeKubeApi
from tests.chart.fake_kube.cluster import Cluster
from tests.chart.fake_kube.kinds import BY_NAME
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, did, helm, render
from tests.chart.test_rendering import EXAMPLES

pytestmark = pytest.mark.slow

JOB = """job: |
  name = "first"
  batch = { samples = 64, slot_samples = 8 }
  data = { samples = 1000 }
  optimizer = { lr = { peak = 0.01 } }
  stop = { steps = 10 }
"""
WORKLOADS = ["StatefulSet", "Deployment", "Service", "PersistentVolumeClaim", "NetworkPolicy", "ConfigMap"]


class Release:
    """helm of one major version, with a home and a cluster of its own."""

    def __init__(self, major: int, home: Path, cluster: Cluster) -> None:
        self.major, self.home, self.cluster = major, home, cluster

    def helm(self, *arguments: str | Path, values: str = "") -> subprocess.CompletedProcess[str]:
        return helm(self.major, *arguments, "--namespace", NAMESPACE, values=values, home=self.home)

    def does(self, *arguments: str | Path, values: str = "") -> str:
        done = self.helm(*arguments, values=values)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def upgraded(self, values: str) -> str:
        return self.does("upgrade", RELEASE, CHART, "--wait", "--timeout", "30s", "-f", "-", values=values)

    def refused(self, values: str) -> str:
        """What helm says to an upgrade."""
        done = self.helm("upgrade", RELEASE, CHART, "-f", "-", values=values)
        assert done.returncode != 0
        return " ".join(done.stderr.split())

    def names(self) -> dict[str, set[str]]:
        return {kind: set(self.cluster.objects(kind)) for kind in WORKLOADS}


@pytest.fixture(params=[3, 4], ids=["helm3", "helm4"])
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Release]:
    with FakeKubeApi() as api:
        api.write_kubeconfig(tmp_path / "kubeconfig")
        yield Release(request.param, tmp_path, api.cluster)


def test_release_is_installed_upgraded_tested_rolled_back_and_removed(release: Release) -> None:
    installed = release.does(
        "install", RELEASE, CHART, "--wait", "--wait-for-jobs", "--timeout", "30s", "-f", "-", values=JOB
    )
    assert "run = sheepfold.attach(model" in installed
    there = release.names()
    assert there["StatefulSet"] == {"fold-sheepfold-coordinator", "fold-sheepfold-shard"}
    assert release.cluster.ever("Job") == {
        f"fold-sheepfold-{name}" for name in ("credentials", "connect", "job")
    }
    assert release.cluster.ever("Role") == {"fold-sheepfold-credentials"}
    assert not release.cluster.objects("Role"), "the right to make secrets outlives the hooks"

    changed = JOB + "shards: {podAnnotations: {example.com/note: second}}"
    release.upgraded(changed)
    assert annotations_of(release)["example.com/note"] == "second"
    assert release.names() == there
    assert "Succeeded" in release.does("test", RELEASE)
    release.does("rollback", RELEASE, "1", "--wait", "--timeout", "30s")
    assert "example.com/note" not in annotations_of(release)
    release.does("uninstall", RELEASE, "--wait", "--timeout", "30s")
    assert release.names() == {kind: set() for kind in WORKLOADS}
    did["lifecycles"] += 1


def annotations_of(release: Release) -> dict[str, str]:
    shards = release.cluster.objects("StatefulSet")["fold-sheepfold-shard"]
    found: dict[str, str] = shards["spec"]["template"]["metadata"]["annotations"]
    return found


def test_running_release_keeps_its_shards_and_its_image_unless_told(release: Release) -> None:
    release.does("install", RELEASE, CHART)
    assert "shards.count=3: this release has 2 shards" in release.refused("shards: {count: 3}")
    newer = "image: {tag: '2'}"
    assert "sheepfold:0.1.0 is running and would be replaced by sheepfold:2" in release.refused(newer)
    release.upgraded(newer + "\nupgrade: {allowRunning: true}")
    shards = release.cluster.objects("StatefulSet")["fold-sheepfold-shard"]
    assert shards["spec"]["template"]["spec"]["containers"][0]["image"] == "sheepfold:2"


def test_disk_that_was_made_keeps_its_size(release: Release) -> None:
    """Kubernetes' refusal, not the chart's: deploy/README.md says how a disk grows."""
    release.does("install", RELEASE, CHART)
    assert "field is immutable" in release.refused("shards: {storage: {size: 100Gi}}")


def test_environment_that_is_there_twice_would_be_refused_by_server_side_apply(tmp_path: Path) -> None:
    """What the chart's merging of environments is for; and that the fake cluster sees it."""
    copied = tmp_path / "chart"
    subprocess.run(["cp", "-r", CHART, copied], check=True)
    template = copied / "templates" / "coordinator.yaml"
    text = template.read_text()
    twice = text.replace("          env:\n", "          env:\n            - {name: HOME, value: /tmp}\n", 1)
    assert twice != text
    template.write_text(twice)
    with FakeKubeApi() as api:
        api.write_kubeconfig(tmp_path / "kubeconfig")
        done = Release(4, tmp_path, api.cluster).helm("install", RELEASE, copied)
    assert done.returncode != 0
    assert "duplicate entries for key HOME" in done.stderr


def test_cluster_knows_every_kind_that_the_chart_can_render() -> None:
    rendered = {each["kind"] for values in EXAMPLES for each in render(values)}
    assert rendered <= BY_NAME.keys()
