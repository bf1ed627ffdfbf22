"""The chart's copies, its README, and its alerts and panels as they come out of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.chart.chart_files import COPIED, README, Undocumented, defaults, documented_values, readme, table
from tests.chart.rendering import CHART, of_kind, render
from tests.conftest import require


@pytest.mark.parametrize(("copy", "source"), COPIED.items(), ids=[path.name for path in COPIED])
def test_copy_in_the_chart_equals_its_source(copy: Path, source: Path) -> None:
    assert copy.read_text() == source.read_text(), "make chart-files"


def test_readme_says_what_values_yaml_says() -> None:
    assert README.read_text() == readme(), "make chart-files"


def test_every_value_is_documented_once() -> None:
    text = (CHART / "values.yaml").read_text()
    names = [name for name, _ in documented_values(text)]
    assert len(names) == len(set(names)) > 100
    assert [name for name, _ in defaults(yaml.safe_load(text), dict(documented_values(text)))] == names


def test_value_without_a_comment_is_seen() -> None:
    with pytest.raises(Undocumented, match=r"a\.c"):
        table("a:\n  # -- One.\n  b: 1\n  c: 2\n")


def test_rules_that_come_out_are_those_of_the_monitoring_and_well_formed(tmp_path: Path) -> None:
    found = shutil.which("promtool")
    if found is None:
        require("prometheus", "promtool is not installed; `apt-get install prometheus`")
    (rule,) = of_kind(render(), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    done = subprocess.run(
        [str(found), "check", "rules", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard_of_grafana_comes_out_as_it_was_put_in() -> None:
    (config,) = (each for each in of_kind(render(), "ConfigMap") if "sheepfold.json" in each["data"])
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["sheepfold.json"]) == json.loads(
        (CHART / "files" / "grafana.json").read_text()
    )


def test_scripts_come_out_as_they_were_put_in() -> None:
    objects = of_kind(render(), "ConfigMap")
    scripts = {name: text for each in objects for name, text in each["data"].items() if name.endswith(".py")}
    assert scripts.keys() == {"try.py", "credentials.py"}
    for name, text in scripts.items():
        assert text.strip() == (CHART / "files" / name).read_text().strip()
