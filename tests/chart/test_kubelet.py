"""The chart's pods as processes: its commands, probes and grace periods, with real steps through them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.chart.fake_kube.api import FakeKubeApi
from tests.chart.kubelet import Node
from tests.chart.rendering import render
from tests.chart.test_secrets import ADMIN, LINE, Hooks
from tests.integration.harness import digest_of, running_fold, small_job, train
from tests.integration.test_cli_up import sheepfold

from sheepfold_wire.connection import parse_connection

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SMALL = """
model: {parameters: 300000}
shards: {count: 2, resources: {limits: {cpu: 900m}}}
"""
JOB = (
    SMALL
    + """
checkpoints: {existingClaim: shared}
job: |
  name = "from-values"
  batch = { samples = 64, slot_samples = 8 }
  data = { samples = 1000 }
  optimizer = { lr = { peak = 0.01 } }
  stop = { steps = 10 }
"""
)
PLAIN = SMALL + "tls: {mode: none}\nallowInsecure: true\n"
COORDINATOR, SHARDS = "fold-sheepfold-coordinator-0", ["fold-sheepfold-shard-0", "fold-sheepfold-shard-1"]


@contextmanager
def released(values: str, folder: Path) -> Iterator[tuple[Node, str]]:
    """As helm installs it: early hooks, pods, late hooks; and the line that a worker mounts."""
    folder.mkdir(exist_ok=True)
    with FakeKubeApi() as api:
        hooks = Hooks(api, folder)
        hooks.run("credentials", values)
        node = Node(folder, render(values), hooks.content)
        try:
            for pod in node.running.values():
                pod.start()
            for pod in node.running.values():
                pod.await_ready()
            hooks.mount("fold-sheepfold-tls", "tls")
            hooks.mount("fold-sheepfold-token", "token")
            hooks.run("connect", values)
            yield node, node.with_local_addresses(hooks.content(LINE)["connection"].decode().strip())
        finally:
            node.close()


def test_release_trains_through_a_restart_of_every_server_to_the_same_bits(tmp_path: Path) -> None:
    """Within 32 pushes one shard is killed, and the other and the coordinator are told to stop.

    In the end another release, of one shard, takes the job up from the checkpoints that the first one kept.
    """
    with running_fold(2) as plain:
        train(plain.address, small_job())
        golden = digest_of(plain.address, "small")
    with released(JOB, tmp_path / "node") as (node, line):
        assert parse_connection(line).ca
        tried = node.once("Pod/fold-sheepfold-test", "test")
        assert tried.run() == 0, tried.log
        assert "one step was made" in tried.log
        created = node.once("Job/fold-sheepfold-job", "job")
        assert created.run() == 0, created.log
        coordinator, shards = node.running[COORDINATOR], [node.running[name] for name in SHARDS]

        killed = {5: shards[1]}
        restarted = {13: shards[0], 21: coordinator}
        pushes = iter(range(1000))

        def disturb(slot: Any) -> None:
            push = next(pushes)
            if pod := killed.pop(push, None):
                pod.kill()
                pod.start()
            if pod := restarted.pop(push, None):
                assert pod.terminate() == 0, pod.log
                pod.start()
                pod.await_ready()

        train(line, small_job(), disturb)
        assert not killed
        assert not restarted
        assert digest_of(line, "small") == golden
        dashboard = node.running["fold-sheepfold-dashboard"]
        dashboard.await_ready()  # it finds the coordinator again
        assert dashboard.terminate() == 0, dashboard.log
        dashboard.start()
        dashboard.await_ready()
        assert all(pod.answers("livenessProbe") for pod in node.running.values())

    claims = tmp_path / "other" / "claims"
    claims.mkdir(parents=True)
    (claims / "shared").symlink_to(tmp_path / "node" / "claims" / "shared")
    smaller = JOB.replace("count: 2", "count: 1") + "dashboard: {enabled: false}\n"
    with released(smaller, tmp_path / "other") as (node, line):
        command = ("checkpoint", "restore", "small")
        assert "Restore is for admin" in sheepfold(*command, address=line).stderr
        admin = node.with_local_addresses(node.read_secret(ADMIN)["connection"].decode().strip())
        restored = sheepfold(*command, address=admin)
        assert restored.returncode == 0, restored.stderr
        assert digest_of(line, "small") == golden


def test_shard_without_its_coordinator_is_alive_and_not_ready(tmp_path: Path) -> None:
    """So it is not restarted, and not waited for less; with TLS as in plain text."""
    with FakeKubeApi() as api:
        hooks = Hooks(api, tmp_path)
        hooks.run("credentials", SMALL)
        nodes = [
            Node(tmp_path / "tls", render(SMALL), hooks.content),
            Node(tmp_path / "plain", render(PLAIN), hooks.content),
        ]
    shards = [node.running[SHARDS[0]] for node in nodes]
    try:
        for shard in shards:
            shard.start()
        for shard in shards:
            shard.await_probe("startupProbe")
            assert shard.answers("livenessProbe")
            assert not shard.answers("readinessProbe")
        plain = nodes[1]
        plain.running[COORDINATOR].start()
        shards[1].await_ready()
        assert shards[1].terminate() == 0
        assert not shards[1].answers("livenessProbe")
    finally:
        for node in nodes:
            node.close()
