"""The page that is committed is what its source makes, byte for byte."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.conftest import require

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DASHBOARD = Path(__file__).parents[2] / "server/sheepfold_server/dashboard"
BUNDLE_GZIP_BYTES_MAX = 120_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source, installed from its lock file and built."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        require("node", "Node is not installed; version 20.19 or newer builds the page")
    folder = tmp_path_factory.mktemp("dashboard") / "web"
    shutil.copytree(DASHBOARD / "web", folder, ignore=shutil.ignore_patterns("node_modules"))
    run(folder, "npm", "ci", "--silent")
    run(folder, "npm", "run", "--silent", "build")
    return folder


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def test_what_is_committed_is_what_the_source_makes(built: Path) -> None:
    made, committed = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (built.parent / "static", DASHBOARD / "static")
    )
    assert made.keys() == committed.keys()
    differing = [name for name in made if made[name] != committed[name]]
    assert not differing, f"{differing} differ from what the source makes: run `make page` and commit it"


def test_the_pure_parts_pass_their_tests(built: Path) -> None:
    assert "passed" in run(built, "npm", "test", "--silent")


def test_the_bundle_is_small() -> None:
    files = (DASHBOARD / "static" / name for name in ("page.js", "page.css", "index.html"))
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) <= BUNDLE_GZIP_BYTES_MAX


def test_licences_of_everything_in_the_bundle_travel_with_it() -> None:
    told = (DASHBOARD / "static" / "THIRD_PARTY_LICENSES").read_text()
    for name in json.loads((DASHBOARD / "web" / "package.json").read_text())["dependencies"]:
        assert re.search(rf"^--- {re.escape(name)} \d", told, re.MULTILINE), name


def test_the_lock_file_leaves_open_which_registry_serves() -> None:
    assert '"resolved"' not in (DASHBOARD / "web" / "package-lock.json").read_text()
