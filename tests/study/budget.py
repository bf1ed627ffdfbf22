"""How long runs will take on this machine: a formula over costs that short real runs have measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.study.contenders import LAMB, UNTUNED, schedule
from tests.study.runs import Result, Run


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one task on one machine, in seconds."""

    sample: float
    slot: float
    """Of a push and of waiting for the step, however small."""
    run: float
    """Of starting servers and of evaluating."""

    def seconds(self, run: Run) -> float:
        return self.run + run.work * self.sample + run.slots * self.slot


TRIALS = {"lenet": ((64, 1_280), (1_024, 4_096)), "bert": ((32, 320), (512, 1_024))}
"""By task, two short runs as (batch, samples): one of many slots, one of large ones."""


def trial_runs(task: str) -> list[Run]:
    return [
        Run(task, LAMB.optimizer(task), schedule(UNTUNED[task], samples), batch, samples, seed=0)
        for batch, samples in TRIALS[task]
    ]


def costs(trials: Sequence[tuple[Run, float]], run_seconds: float) -> Costs:
    """Two equations in two unknowns: seconds = work * sample + slots * slot.

    Where noise makes one of them negative it is 0, and the other one takes all of the longer trial.
    """
    (a, a_seconds), (b, b_seconds) = trials
    determinant = a.work * b.slots - b.work * a.slots
    sample = (a_seconds * b.slots - b_seconds * a.slots) / determinant
    slot = (a.work * b_seconds - b.work * a_seconds) / determinant
    if sample < 0:
        sample, slot = 0.0, max(a_seconds / a.slots, b_seconds / b.slots)
    if slot < 0:
        sample, slot = max(a_seconds / a.work, b_seconds / b.work), 0.0
    return Costs(sample, slot, run_seconds)


def calibrate(tasks: Iterable[str], perform: Callable[[Run], Result]) -> dict[str, Costs]:
    """Costs of each task here and now. The first trial is made twice: the data is read once."""
    found = {}
    for task in tasks:
        runs = trial_runs(task)
        perform(runs[0])
        began = time.perf_counter()
        seconds = [perform(run).seconds for run in runs]
        around = (time.perf_counter() - began - sum(seconds)) / len(runs)
        found[task] = costs(list(zip(runs, seconds, strict=True)), max(0.0, around))
    return found


def total(runs: Iterable[Run], by_task: Mapping[str, Costs]) -> float:
    return sum(by_task[run.task].seconds(run) for run in runs)
