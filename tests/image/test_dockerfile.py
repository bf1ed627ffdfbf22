"""The Dockerfile says what the chart expects of an image; `make image-check` builds it and trains with it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.conftest import require
from tests.image.store import BASE

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = DOCKER / "Dockerfile"
CHART = ROOT / "deploy" / "helm" / "sheepfold"
TARGETS = ("cpu", "cuda")
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def tool(name: str) -> str:
    """Beside this Python, or on the PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        require(name, "not installed; pip install -c constraints.txt -e '.[dev]'")
    return str(found)


def complaints(dockerfile: Path) -> str:
    """Of hadolint; empty where it finds nothing."""
    command = [tool("hadolint"), "--no-color", str(dockerfile)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(word, rest) of each, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", dockerfile.read_text())
    joined = text.replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in joined.splitlines() if line]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Name -> instructions, the FROM first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions(DOCKERFILE):
        if word == "FROM":
            current = found.setdefault(rest.rpartition(" AS ")[2], [])
            current.append((word, rest))
        elif found:
            current.append((word, rest))
    return found


def inherited(stage: str) -> list[tuple[str, str]]:
    """Its instructions after those of the stages it is built on."""
    all_of_them = stages()
    base = all_of_them[stage][0][1].partition(" AS ")[0]
    return (inherited(base) if base in all_of_them else []) + all_of_them[stage]


def values() -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def test_hadolint_finds_nothing_and_would_see_a_fault(tmp_path: Path) -> None:
    assert complaints(DOCKERFILE) == ""
    worse = tmp_path / "Dockerfile"
    worse.write_text(DOCKERFILE.read_text() + "RUN cd /tmp && sudo true\n")
    assert "DL3004" in complaints(worse)


def test_scripts_of_the_build_are_clean() -> None:
    scripts = [str(path) for path in sorted(DOCKER.glob("*.sh"))]
    assert len(scripts) == 2
    done = subprocess.run([tool("shellcheck"), *scripts], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_image_starts_the_program_that_the_chart_starts_as_the_user_it_names(target: str) -> None:
    said = dict(inherited(target))  # the last of each word counts
    assert said["ENTRYPOINT"] == '["sheepfold"]'
    pods = values()["podSecurityContext"]
    assert isinstance(pods, dict)
    user, _, group = said["USER"].partition(":")
    assert (int(user), group) == (pods["runAsUser"], "0")
    assert int(user) != 0


@pytest.mark.parametrize("target", TARGETS)
def test_image_has_a_compiler_and_a_home_for_any_user_of_group_0(target: str) -> None:
    text = "\n".join(f"{word} {rest}" for word, rest in inherited(target))
    assert re.search(r"install .*\bg\+\+", text)
    assert re.search(r"install -d -o 10001 -g 0 -m 2775 /var/lib/sheepfold", text)
    assert re.search(r"HOME=/var/lib/sheepfold\b", text)


def test_default_image_is_cpu_and_is_called_as_the_chart_calls_it() -> None:
    assert list(stages())[-1] == "cpu"
    arguments = dict(
        rest.partition("=")[::2] for word, rest in instructions(DOCKERFILE) if word == "ARG" and "=" in rest
    )
    assert arguments["VERSION"] == VERSION
    assert arguments["BASE"] == BASE, "make image-check would build on another base"
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == VERSION
    image = values()["image"]
    assert isinstance(image, dict)
    assert image["repository"] == "sheepfold"
    script = (DOCKER / "build.sh").read_text()
    assert "image=sheepfold:$version\n[[ $target == cpu ]] || image+=-$target\n" in script


def test_context_holds_what_the_wheel_is_made_of_and_no_state() -> None:
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    assert lines[1] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = wheel["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert all(any(package.startswith(each) for each in let_in) for package in packages)
    assert {"constraints.txt", "pyproject.toml", "README.md", "LICENSE"} <= let_in
    for each in let_in - {"dist/wheels"}:
        assert (ROOT / each).exists(), each
