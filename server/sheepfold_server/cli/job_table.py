"""A job's configuration as a table: every value resolved, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from sheepfold_server.core.batch import BatchPlan
from sheepfold_server.core.schedule import learning_rate, segments, warmup_steps
from sheepfold_wire.job import LIVE_KEYS, Job


def job_table(job: Job) -> Table:
    table = Table(title=f"job {job.name}", title_justify="left", box=None, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("may change")
    for key, value in flat(job.model_dump(mode="json")):
        table.add_row(key, shown(value), "live" if key in LIVE_KEYS else "")
    table.add_section()
    for key, text in consequences(job):
        table.add_row(key, text, "")
    return table


def consequences(job: Job) -> Iterator[tuple[str, str]]:
    """What the values mean for the whole run."""
    plan, steps = BatchPlan(job), job.stop.steps
    samples = plan.offset(steps - 1) + plan.samples(steps - 1)
    yield "slots per step (K)", _from_to(plan.slots(0), plan.slots(steps - 1))
    yield "steps", f"{steps:,}"
    yield "samples of all steps", f"{samples:,}"
    if job.data.samples:
        yield "passes over the data", f"{samples / job.data.samples:.2f}"
    for number, (lr, first, count) in enumerate(segments(job)):
        warmup = warmup_steps(lr, job.data.samples)
        places = sorted(
            {first, first + max(0, warmup + lr.warmup_from), first + count // 2, first + count - 1}
        )
        rates = ", ".join(f"{learning_rate(job, step):.4g} at step {step:,}" for step in places)
        yield f"learning rate, schedule {number + 1}", f"{warmup:,} warm-up steps; {rates}"


def _from_to(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} at step 0, {last:,} at the end"


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                yield from flat(item, f"{prefix}{key}[{number}].")
        else:
            yield prefix + key, value


def shown(value: Any) -> str:
    if value is None or value in ([], {}):
        return "(none)"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
