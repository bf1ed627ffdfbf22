"""Runs an example whose rank 1, when it is first started, kills itself half-way. Arguments: example, step."""

from __future__ import annotations

import os
import runpy
import signal
import sys

import sheepfold
from sheepfold.result import StepResult


def main(program: str, step: str) -> None:
    original = sheepfold.Run.step

    def step_or_die(run: sheepfold.Run, weight: float | None = None, loss: float | None = None) -> StepResult:
        if run.step_number >= int(step):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(run, weight, loss)

    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        sheepfold.Run.step = step_or_die  # type: ignore[method-assign,assignment]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
