"""`sheepfold demo` from start to end, with few steps."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

DEADLINE_SECONDS = 110.0


def test_demo_survives_its_killed_worker_and_accounts_for_every_sample() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sheepfold_server", "demo", "--json", "--steps", "24", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    facts = json.loads(lines[0])
    slots = facts["slots"]
    assert (facts["steps"], facts["version"], slots["committed"], slots["skipped"]) == (24, 24, 24 * 8, 0)
    assert slots["leased"] == slots["committed"] + slots["dropped"]
    assert 0 < facts["trust_ratio"]["min"] < facts["trust_ratio"]["max"]
    assert facts["accuracy"] > 0.5
    assert len(facts["digest"]) == 64
    assert "killed (SIGKILL)" in done.stderr
    assert "24 steps x 1,024: none lost, none counted twice" in done.stderr
    assert "Traceback" not in done.stderr
