"""`sheepfold support-bundle` beside a running `sheepfold up`."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.integration.harness import small_job
from tests.integration.test_cli_up import Up, sheepfold

import sheepfold as client

pytestmark = pytest.mark.slow


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path / "state", "--listen", "127.0.0.1")
    yield running
    running.close()


def test_a_bundle_has_jobs_steps_and_logs_and_no_token(up: Up, tmp_path: Path) -> None:
    address, file = f"file:{up.directory / 'connection'}", tmp_path / "bundle.tar.gz"
    model = torch.nn.Linear(64, 10)
    with client.attach(model, address=address, config=small_job()) as run:
        for slot in run.slots():
            slot.backward(model(torch.ones(slot.samples, 64)).square().mean())
            run.step()
    done = sheepfold("support-bundle", "-y", "-o", str(file), "--dir", str(up.directory), address=address)
    assert done.returncode == 0, done.stderr
    with tarfile.open(file) as archive:
        texts = {
            member.name.removeprefix("sheepfold-support/"): archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive
        }
    for name in ("machine.json", "jobs/small/status.json", "jobs/small/steps.jsonl", "state/up.json"):
        assert f"  {name}\n" in done.stdout
        assert texts[name]
    steps = [json.loads(line) for line in texts["jobs/small/steps.jsonl"].splitlines()]
    assert [step["version"] for step in steps] == [1, 2, 3, 4]
    assert "state/logs/coordinator.log" in texts
    tokens = [file.read_text().strip() for file in (up.directory / "tls").glob("*.token")]
    assert len(tokens) == 3
    assert not any(token in text for text in texts.values() for token in tokens)


def test_nothing_is_written_unless_the_list_is_agreed_to(tmp_path: Path) -> None:
    """Also without a coordinator there is something to tell."""
    file = tmp_path / "bundle.tar.gz"
    command = [
        sys.executable,
        "-m",
        "sheepfold_server",
        "support-bundle",
        "-o",
        str(file),
        "-a",
        "127.0.0.1:1",
    ]
    done = subprocess.run(command, input="n\n", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "coordinator.txt" in done.stdout
    assert not file.exists()
