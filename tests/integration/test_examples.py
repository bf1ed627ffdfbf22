"""Every example program runs by itself, without a server, and ends with what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "client" / "examples"
LAST_LINES = {
    "accelerate_loop.py": r"version 120: loss 0\.\d+",
    "plain_loop.py": r"version 40: accuracy 0\.9\d+",
    "existing_loop.py": r"version 40: loss 0\.\d+",
    "hf_trainer.py": r"version 100: loss [01]\.\d+",
    "lightning_module.py": r"version 120: loss 0\.\d+",
    "numpy_regression.py": r"version 30: accuracy 0\.[89]\d+",
    "torchrun_worker.py": r"version 120: loss 0\.\d+",
}


def test_every_example_is_checked() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == LAST_LINES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LAST_LINES))
def test_example_runs_to_the_end_of_its_job(name: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env={**os.environ, "SHEEPFOLD": "local:?shards=2", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(LAST_LINES[name], done.stdout.splitlines()[-1]), done.stdout
    assert "Traceback" not in done.stderr
