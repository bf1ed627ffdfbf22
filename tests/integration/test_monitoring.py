"""Rules and panels fit what is exported, and a real Prometheus reads it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from tests.browser.training import Training
from tests.conftest import require
from tests.integration.test_cli_up import Up, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
MADE_BY_PROMETHEUS = {"le", "quantile"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, Training]]:
    up = Up(tmp_path_factory.mktemp("monitored") / "state")
    try:
        torch.manual_seed(1)
        training = Training(up.address, "small", torch.nn.Linear(6, 6), 6)
        training.advance(12)
        eventually(lambda: 'sheepfold_job_version{job="small"} 1' in scraped(up), "the steps in the metrics")
        yield up, training
        training.close()
    finally:
        up.close()


def scraped(up: Up) -> str:
    response = up.get("/metrics")
    return "" if response is None else response.text


def promtool(*arguments: str, given: str = "") -> str:
    found = shutil.which("promtool")
    if found is None:
        require("prometheus", "promtool is not installed; `apt-get install prometheus`")
    done = subprocess.run(
        [str(found), *arguments],
        cwd=MONITORING,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_metrics_follow_the_rules_of_their_names(system: tuple[Up, Training]) -> None:
    assert promtool("check", "metrics", given=scraped(system[0])) == ""


def test_rules_are_well_formed_and_fire_where_they_should() -> None:
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml")
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yaml")


def expressions() -> list[str]:
    """Of all rules and panels."""
    rules = re.findall(r"^ +expr: (.*)$", (MONITORING / "rules.yaml").read_text(), re.MULTILINE)
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    return rules + [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_every_expression_names_exported_metrics_and_their_labels(system: tuple[Up, Training]) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scraped(system[0])):
        labels.setdefault(family.name, set())
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    # Nothing is wrong and no noise scale is known yet: these are there without a sample.
    labels["sheepfold_alerts"] |= {"job", "rule", "severity"}
    labels["sheepfold_noise_scale_samples"] |= {"job"}
    found = expressions()
    assert len(found) > 30
    for expression in found:
        for name, selector in re.findall(r"\b(sheepfold_\w+)(?:\{([^}]*)\})?", expression):
            assert name in labels, f"{name} of {expression!r} is not exported"
            asked = set(re.findall(r"(\w+)\s*=", selector))
            assert asked <= labels[name], f"{expression!r} asks {name} for {asked - labels[name]}"
    groups = [group for text in found for group in re.findall(r"by \(([^)]*)\)", text)]
    assert {name for group in groups for name in group.split(", ")} <= set().union(
        *labels.values()
    ) | MADE_BY_PROMETHEUS


def test_every_alert_of_the_dashboard_is_a_rule_with_a_test_and_a_page(system: tuple[Up, Training]) -> None:
    from sheepfold_server.dashboard.alerts.rules import RULES

    names = ("rules.yaml", "rules_test.yaml", "README.md")
    rules, tests, readme = ((MONITORING / name).read_text() for name in names)
    assert {rule.name for rule in RULES} == set(re.findall(r'rule="(\w+)"', rules))
    for name in re.findall(r"- alert: (\w+)", rules):
        assert tests.count(f"alertname: {name}") == 2, f"{name}: one firing and one silent case"
        assert f"### {name}\n" in readme


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_real_prometheus_answers_how_many_steps_are_made_per_second(
    system: tuple[Up, Training], tmp_path: Path
) -> None:
    binary = shutil.which("prometheus")
    if binary is None:
        require("prometheus", "prometheus is not installed; `apt-get install prometheus`")
    up, training = system
    port, target = free_port(), up.facts()["dashboard"]["address"]
    config = tmp_path / "prometheus.yml"
    config.write_text(
        f"rule_files: [{MONITORING / 'rules.yaml'}]\n"
        "scrape_configs:\n  - job_name: sheepfold\n    honor_labels: true\n    scrape_interval: 1s\n"
        f"    static_configs: [{{targets: ['{target}']}}]\n"
    )
    log = (tmp_path / "prometheus.log").open("w")
    process = subprocess.Popen(
        [
            str(binary),
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=log,
        stderr=log,
    )
    try:

        def rate() -> float:
            """Steps per second as Prometheus sees them; a step is made between two looks."""
            assert process.poll() is None, (tmp_path / "prometheus.log").read_text()
            training.advance(1)
            query = 'rate(sheepfold_steps_total{outcome="applied"}[20s])'
            try:
                answer = httpx.get(
                    f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, trust_env=False
                )
            except httpx.HTTPError:
                return 0.0
            if answer.status_code != 200:  # it is starting
                return 0.0
            found = answer.json()["data"]["result"]
            return float(found[0]["value"][1]) if found and found[0]["metric"]["job"] == "small" else 0.0

        assert eventually(rate, "a rate above 0") > 0
    finally:
        process.terminate()
        process.wait(30)
        log.close()
