"""Every example program runs by itself, without a server, and ends with what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LEFT_AT_EXIT = """
import atexit, sys, threading
def show():
    print("threads:", *sorted(t.name for t in threading.enumerate()), file=sys.stderr)
atexit.register(show)  # registered first: runs last
import torch, sheepfold
job = dict(name="j", batch=dict(samples=8, slot_samples=8), data=dict(mode="free"))
job.update(optimizer=dict(lr=dict(peak=0.1)), stop=dict(steps=1))
sheepfold.RemoteOptimizer(torch.nn.Linear(2, 2).named_parameters(), config=job)  # without weight=: refused
"""
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
RECIPES = {"bert_mlm.py", "lenet.py", "resnet.py"}
"""At small size, by test_recipes.py."""


def test_every_example_is_checked() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == LAST_LINES.keys() | RECIPES


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


@pytest.mark.slow
def test_a_script_that_is_refused_in_process_leaves_no_thread_behind_that_could_abort_it() -> None:
    """The shards were just opening the job: a thread within torch, when Python exits, ends in SIGABRT."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_AT_EXIT],
        env={**os.environ, "SHEEPFOLD": "local:?shards=2"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 78, done.stderr
    assert done.stderr.splitlines()[-1] == "threads: MainThread"
