"""A job's configuration as a table: every value resolved, and what follows from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from sheepfold_server.core.batch import BatchPlan
from sheepfold_wire.job import LIVE_KEYS, Job
from sheepfold_wire.optimizer import LearningRate, group_settings, rule_settings
from sheepfold_wire.schedule import learning_rate, lr_for_batch, segments, warmup_steps

AS_ABOVE = "(as [optimizer.lr])"
KERNELS = {
    "auto": "compiled from a million parameters on if every shard can; decided when the job opens",
    "compiled": "compiled; refused if a shard has no C++ compiler",
    "eager": "eager, on every shard",
}


def job_table(job: Job) -> Table:
    table = Table(title=f"job {job.name}", title_justify="left", box=None, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("may change")
    for key, value in flat(resolved(job)):
        # Text, for a pattern such as [ab]* would be read as markup
        table.add_row(Text(key), Text(shown(value)), "live" if key in LIVE_KEYS else "")
    table.add_section()
    for key, text in consequences(job):
        table.add_row(key, text, "")
    return table


# --- values -------------------------------------------------------------------------------------------


def resolved(job: Job) -> dict[str, Any]:
    """The job's values by section, with what its stages and groups leave out filled in."""
    values = job.model_dump(mode="json")
    values["batch"]["stage"] = [_stage(job, number) for number in range(len(job.batch.stage))]
    optimizer = values["optimizer"]
    optimizer["groups"] = [_group(job, number) for number in range(len(job.optimizer.groups))]
    values["optimizer"] = dict(sorted(optimizer.items(), key=_place))
    return values


def _place(item: tuple[str, Any]) -> int:
    """The rule first, what has keys of its own last."""
    key, value = item
    return 0 if key in ("rule", "preset") else 2 if isinstance(value, dict) or key == "groups" else 1


def _stage(job: Job, number: int) -> dict[str, Any]:
    batch, stage = job.batch, job.batch.stage[number]
    values = stage.model_dump(mode="json")
    values["samples"] = stage.samples or batch.samples
    values["slot_samples"] = stage.slot_samples or batch.slot_samples
    if stage.lr is None:
        values["lr"] = AS_ABOVE if stage.rewarm else "(goes on)"
    return values


def _group(job: Job, number: int) -> dict[str, Any]:
    """What a group has: of the job's own rule what is given, of another one every setting."""
    optimizer, group = job.optimizer, job.optimizer.groups[number]
    settings = group_settings(optimizer, group, number).model_dump(mode="json")
    given = group.model_dump(mode="json", exclude_none=True)
    if settings["rule"] == rule_settings(optimizer).rule:
        return {**given, "rule": settings["rule"]}
    return {**given, **settings}


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value under its dotted key, as it would be written in TOML."""
    for key, value in values.items():
        written = prefix + (key if re.fullmatch(r"[\w-]+", key) else f'"{key}"')
        if isinstance(value, dict) and value:
            yield from flat(value, f"{written}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                yield from flat(item, f"{written}[{number}].")
        else:
            yield written, value


def shown(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "(none)"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


# --- consequences -------------------------------------------------------------------------------------


def consequences(job: Job) -> Iterator[tuple[str, str]]:
    """What the values mean for the whole run."""
    plan, steps = BatchPlan(job), job.stop.steps
    samples = plan.offset(steps - 1) + plan.samples(steps - 1)
    yield "slots per step (K)", _from_to(plan.slots(0), plan.slots(steps - 1))
    yield "steps", f"{steps:,}"
    yield "samples of all steps", f"{samples:,}"
    if job.data.samples:
        yield "passes over the data", f"{samples / job.data.samples:.2f}"
    schedules = [schedule for schedule in segments(job) if schedule[1] < steps]
    for number, schedule in enumerate(schedules, start=1):
        suffix = f", schedule {number}" if len(schedules) > 1 else ""
        for key, text in _rates(job, plan, *schedule):
            yield key + suffix, text
    yield "kernel", KERNELS[job.numerics.kernel]


def _rates(job: Job, plan: BatchPlan, lr: LearningRate, first: int, count: int) -> Iterator[tuple[str, str]]:
    """Peak, warm-up and some rates of one schedule, which takes `count` steps from `first` on."""
    last = min(first + count, job.stop.steps) - 1
    yield "peak learning rate", _peak(lr, dict.fromkeys((plan.samples(first), plan.samples(last))))
    warmup = warmup_steps(lr, job.data.samples)
    end = first + max(0, warmup + lr.warmup_from)
    passes = (
        "" if lr.warmup_epochs is None else f" = {lr.warmup_epochs:g} passes at a batch of {lr.base_batch:,}"
    )
    never = "; the schedule ends before, its peak is never reached" if end > last else ""
    yield "warm-up steps", f"{warmup:,}{passes}{never}"
    places = sorted({first, min(end, last), first + (last - first) // 2, last})
    yield "learning rate", ", ".join(f"{learning_rate(job, step):.4g} at step {step:,}" for step in places)


def _peak(lr: LearningRate, batches: dict[int, None]) -> str:
    if lr.base_batch is None:
        return f"{lr.peak:.4g}"
    base = lr.base_batch
    return ", ".join(
        f"{lr_for_batch(lr.peak, base, batch):.4g} = {lr.peak:g} * sqrt({batch:,} / {base:,})"
        for batch in batches
    )


def _from_to(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} at step 0, {last:,} at the end"
