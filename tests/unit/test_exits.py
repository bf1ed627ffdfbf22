"""sheepfold.exits: a script's exit code says whether to start it again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys
from sheepfold.errors import JobEnded, Refused, ServerUnavailable
from sheepfold.exits import set_exit_codes
atexit.register(print, "left")
set_exit_codes()
set_exit_codes()
raise {}
"""


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        ("JobEnded('done')", 0, "sheepfold: exit code 0: the job has ended: done; leave the training loop"),
        ("ServerUnavailable(600.0, 'no route')", 75, "sheepfold: exit code 75: try again"),
        ("Refused('no such model')", 78, "sheepfold: exit code 78: never retry"),
        ("ValueError('mine')", 1, "ValueError: mine"),
    ],
)
def test_an_exception_that_ends_a_script_decides_its_exit_code(error: str, code: int, last: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == last
    assert done.stdout == "left\n"  # exit handlers run: leases are handed back
    assert ("Traceback" in done.stderr) == (code != 0)
