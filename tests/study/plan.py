"""What each size of the study runs: pure lists of cells, a cell being one place of a table.

A tuned rate is a function of stored results. Before they are there the middle of the grid stands in for it:
what a run costs does not depend on its rate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.study.contenders import ADAMW, ADAMW_TUNED, LAMB, TUNED, UNTUNED, Contender, Peak, schedule
from tests.study.runs import LENGTH, Mode, Run, canonical, slot_of
from tests.study.store import Store
from tests.study.tasks import MEASURES

TUNING = "tuning"
TUNING_SEED = 1_000
LONG = 128
"""Tokens of a window in the second stage."""
SHORT_SHARE = 0.9
"""Of a mixed-batch run's samples, as in the paper."""


@dataclass(frozen=True, slots=True)
class TaskSize:
    """How much of a task a size of the study does."""

    batches: tuple[int, ...]
    samples: int
    """Of a whole run, at every batch."""
    grid: tuple[float, ...] = ADAMW.grid
    """AdamW's rates that are tried at the small batch."""
    tuned_batches: tuple[int, ...] = ()
    """Where the size's `others` are tuned, each with its whole grid."""

    @property
    def small(self) -> int:
        return self.batches[0]


@dataclass(frozen=True, slots=True)
class Size:
    """One size of the study."""

    name: str
    minutes_max: float
    """On two cores that nobody else uses; 0: not promised."""
    seeds: int
    factors: tuple[float, ...]
    tasks: Mapping[str, TaskSize]
    large: int
    """LeNet's batch in the tables of one batch."""
    middle: int
    """LeNet's batch in the table of modes and codecs."""
    mixed: int
    """Windows of a step in the short stage of the mixed batch."""
    others: tuple[Contender, ...] = ()
    """Contenders beside LAMB and AdamW that are tuned at each of a task's `tuned_batches`."""


ALL_BATCHES = tuple(32 << i for i in range(9))

SIZES = {
    "quick": Size(
        "quick",
        6,
        3,
        (0.8, 1.2),
        {
            "lenet": TaskSize((64, 256, 1_024), 16_384, grid=ADAMW.grid[1:3]),
            "bert": TaskSize((64, 512), 4_096, grid=ADAMW.grid[1:3]),
        },
        large=1_024,
        middle=256,
        mixed=128,
    ),
    "normal": Size(
        "normal",
        90,
        3,
        (0.8, 0.9, 1.1, 1.2),
        {
            "lenet": TaskSize((64, 512, 4_096), 122_880, tuned_batches=(4_096,)),
            "bert": TaskSize((64, 512, 4_096), 65_536, tuned_batches=(4_096,)),
        },
        large=4_096,
        middle=512,
        mixed=1_024,
        others=(ADAMW_TUNED,),
    ),
    "full": Size(
        "full",
        0,
        5,
        (0.8, 0.9, 1.1, 1.2),
        {
            "lenet": TaskSize(ALL_BATCHES, 245_760, tuned_batches=ALL_BATCHES),
            "bert": TaskSize(ALL_BATCHES, 131_072, tuned_batches=ALL_BATCHES),
        },
        large=4_096,
        middle=512,
        mixed=1_024,
        others=TUNED,
    ),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of a table: a row (`series`) and a column (`at`), with a run for each seed."""

    series: str
    at: str
    runs: tuple[Run, ...]


Tables = dict[str, list[Cell]]


def grid(size: Size, task: str, contender: Contender, batch: int) -> list[tuple[float, Run]]:
    """The peaks tried for a contender at a batch, ascending, and the run of each."""
    scale = size.tasks[task]
    peaks = scale.grid if contender is ADAMW else contender.grid
    return [(lr, _run(task, contender, Peak(lr, batch), batch, scale.samples, TUNING_SEED)) for lr in peaks]


def tuning(size: Size) -> list[Run]:
    """Every run that only tunes."""
    tried = [(task, ADAMW, scale.small) for task, scale in size.tasks.items()]
    tried += [
        (task, one, batch)
        for task, scale in size.tasks.items()
        for one in size.others
        for batch in scale.tuned_batches
    ]
    return [run for place in tried for _, run in grid(size, *place)]


def tuned(size: Size, store: Store, task: str, contender: Contender, batch: int) -> Peak:
    """The best peak of the grid by stored results; its middle while any of them is missing."""
    tried = grid(size, task, contender, batch)
    if any(run not in store for _, run in tried):
        return Peak(tried[len(tried) // 2][0], batch)
    sign = 1 if MEASURES[task].is_better_above else -1
    values = [sign * store[run].value for _, run in tried]
    finite = [value if math.isfinite(value) else -math.inf for value in values]  # one that diverged is last
    return Peak(tried[finite.index(max(finite))][0], batch)


def tables(size: Size, store: Store) -> Tables:
    """Every table of a size, in the report's order."""
    scaling = {f"scaling-{task}": list(_scaling(size, store, task)) for task in size.tasks}
    return {
        **scaling,
        "fragility": list(_fragility(size, store)),
        "variants": list(_variants(size)),
        "mixed": list(_mixed(size)),
        "modes": list(_modes(size)),
        "wires": list(_wires(size)),
    }


def runs(size: Size, store: Store) -> list[tuple[str, Run]]:
    """(table, run) of everything, each run once: tuning first, each table's repetition behind it."""
    found = dict.fromkeys(tuning(size), TUNING)
    for table, cells in tables(size, store).items():
        for run in (run for cell in cells for run in cell.runs):
            found.setdefault(run, table)
        found.setdefault(repeated(cells).over_grpc(), table)
    return [(table, run) for run, table in found.items()]


def repeated(cells: Sequence[Cell]) -> Run:
    """The run of a table that is made again over gRPC: the cheapest of those that give the same bits twice.

    Of equally cheap ones the last, which is seldom the one that other tables have as well.
    """
    fit = [cell.runs[0] for cell in cells if cell.runs[0].mode.repeats]
    return min(reversed(fit), key=lambda run: run.slots)


# --- one table each ---------------------------------------------------------------------------------------


def _run(
    task: str, one: Contender, peak: Peak, batch: int, samples: int, seed: int, factor: float = 1.0
) -> Run:
    return Run(task, one.optimizer(task), schedule(peak, samples, factor), batch, samples, seed)


def _seeds(size: Size, run: Run) -> tuple[Run, ...]:
    return tuple(replace(run, seed=seed) for seed in range(size.seeds))


def _lamb(size: Size, task: str, batch: int, **rule: Any) -> Run:
    """LAMB by the untuned rule; `rule` replaces settings."""
    one = replace(LAMB, rule={**LAMB.rule, **rule})
    return _run(task, one, UNTUNED[task], batch, size.tasks[task].samples, 0)


def _scaling(size: Size, store: Store, task: str) -> Iterator[Cell]:
    scale = size.tasks[task]
    for batch in scale.batches:
        yield Cell(LAMB.name, str(batch), _seeds(size, _lamb(size, task, batch)))
    peak = tuned(size, store, task, ADAMW, scale.small)
    for batch in scale.batches:
        run = _run(task, ADAMW, peak, batch, scale.samples, 0)
        yield Cell(ADAMW.name, str(batch), _seeds(size, run))
    for one in size.others:
        for batch in scale.tuned_batches:
            run = _run(task, one, tuned(size, store, task, one, batch), batch, scale.samples, 0)
            yield Cell(one.name, str(batch), _seeds(size, run))


def _fragility(size: Size, store: Store) -> Iterator[Cell]:
    """A ratio times f is a rate times f on the slices that have a ratio, and on no others."""
    task, batch, samples = "lenet", size.large, size.tasks["lenet"].samples
    adamw = tuned(size, store, task, ADAMW, size.tasks[task].small)
    base = _lamb(size, task, batch)
    for factor in (1.0, *size.factors):
        at = f"{factor - 1:+.0%}" if factor != 1 else "as it is"
        lamb = replace(base, lr=schedule(UNTUNED[task], samples, factor))
        yield Cell("LAMB, learning rate", at, _seeds(size, lamb))
        if factor != 1:
            groups = [*json.loads(base.optimizer)["groups"], {"match": ["*.weight"], "lr_scale": factor}]
            ratio = _lamb(size, task, batch, groups=groups)
        else:
            ratio = base
        yield Cell("LAMB, trust ratio", at, _seeds(size, ratio))
        run = _run(task, ADAMW, adamw, batch, samples, 0, factor)
        yield Cell("AdamW, learning rate", at, _seeds(size, run))


NADAM = {"beta1": 0.975, "beta2": 0.999, "eps": 1e-8}
"""The paper's settings of its Nesterov variants."""

VARIANTS: dict[str, dict[str, Any]] = {
    "LAMB": {},
    "N-LAMB, constant β": {**NADAM, "nesterov": "constant"},
    "N-LAMB, scheduled β": {**NADAM, "nesterov": "scheduled"},
    "NN-LAMB, scheduled β": {**NADAM, "nesterov": "scheduled", "nesterov_second": True},
    "β₁ = 0.975 alone": NADAM,
    "no debiasing": {"debias": "none"},
    "L1 norms": {"norm_ord": "1"},
    "L∞ norms": {"norm_ord": "inf"},
    "φ in [0, 1]": {"phi": [0.0, 1.0]},
    "φ in [0, 10]": {"phi": [0.0, 10.0]},
    "φ in [10, 20]": {"phi": [10.0, 20.0]},
}


def _variants(size: Size) -> Iterator[Cell]:
    for name, rule in VARIANTS.items():
        yield Cell(name, "", _seeds(size, _lamb(size, "lenet", size.large, **rule)))


def _mixed(size: Size) -> Iterator[Cell]:
    """Short windows, then long ones: both stages at one batch, or the short one at four times that."""
    samples, single = size.tasks["bert"].samples, size.mixed // 4
    base = _lamb(size, "bert", single)
    short = int(samples * SHORT_SHARE) // size.mixed * size.mixed
    long = samples - short
    for name, batch, rewarms in (
        (f"single batch: {single}, then {single}", single, True),
        (f"mixed batch: {size.mixed}, then {single}", size.mixed, True),
        ("mixed, without warming up again", size.mixed, False),
    ):
        first = {
            "steps": short // batch,
            "samples": batch,
            "slot_samples": slot_of(batch),
            "sequence": LENGTH,
        }
        second = {"steps": long // single, "samples": single, "slot_samples": slot_of(single)}
        second |= {"sequence": LONG, **_second_rate(long, rewarms)}
        yield Cell(name, "", _seeds(size, replace(base, stages=canonical([first, second]))))


def _second_rate(samples: int, rewarms: bool) -> dict[str, Any]:
    if not rewarms:
        return {}
    return {"rewarm": True, "lr": {**json.loads(schedule(UNTUNED["bert"], samples)), "warmup_steps": 2}}


MODES = {
    "synchronous": Mode(workers=4),
    "delay 1": Mode(delay=1, workers=4),
    "staleness at most 1": Mode(max_staleness=1, workers=4),
    "staleness at most 4": Mode(max_staleness=4, workers=4),
    "asynchronous": Mode(max_staleness="unbounded", workers=4),
}


def _modes(size: Size) -> Iterator[Cell]:
    for name, mode in MODES.items():
        run = replace(_lamb(size, "lenet", size.middle), mode=mode)
        yield Cell(name, "", _seeds(size, run))


def _wires(size: Size) -> Iterator[Cell]:
    for up in ("fp32", "bf16", "int8"):
        yield Cell(up, "", _seeds(size, replace(_lamb(size, "lenet", size.middle), up=up)))
