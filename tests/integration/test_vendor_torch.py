"""Installing sheepfold into an image that brings its own torch leaves every package of the image as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VENDOR = {"torch": "2.6.0a0+ecf3bae40a.nv25.1", "triton": "3.1.0+vendor", "apex": "0.1"}
"""What an image of a vendor has: builds that no index knows."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def installed(python: Path) -> dict[str, str]:
    listed = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "list", "--format=json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {found["name"]: found["version"] for found in json.loads(listed.stdout)}


def test_an_install_changes_no_package_that_is_there(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    for name, version in VENDOR.items():
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "INSTALLER").write_text("vendor\n")
        (info / "RECORD").write_text("")
    before = installed(python)
    assert before.items() >= VENDOR.items()
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", f"{ROOT}[torch]"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    after = installed(python)
    assert {name: after.get(name) for name in before} == before
    assert "sheepfold" in after
    # Without torch's own modules the client still starts: names are loaded when they are used.
    subprocess.run([python, "-c", "import sheepfold; sheepfold.Client"], check=True)
