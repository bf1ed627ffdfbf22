"""Learning rate and batch as functions of the step, so that whoever has the job can draw them ahead."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import Job
from sheepfold_wire.optimizer import LearningRate


def learning_rate(job: Job, step: int) -> float:
    """Learning rate of step t (t = 0 is the first), a pure function of the job and the step.

    Stages with `rewarm` begin a schedule of their own: s counts from the stage's first step, T is its number
    of steps (of the last one: until `stop.steps`). With warm-up W and its start s0 = `warmup_from`:

        ramp       peak * (s - s0) / W      while s - s0 < W       (s0 = -1: (s + 1) / W, 0: ALBERT's)
        progress   (s - first) / (T - first) in [0, 1]             first = W + s0, or 0: `decay_from`
        constant   peak
        poly       final + (peak - final) * (1 - progress) ** power
        cosine     final + (peak - final) * (1 + cos(pi * progress)) / 2
        piecewise  peak * factors[i]        from s = boundaries[i] on
        table      values[min(s, last)]     no warm-up: the values are the rates

    Source of the ramps: the code of ALBERT (start 0) and of MLPerf BERT (start -100, decay from step 0).
    """
    lr, first, steps = _segment(job, step)
    s = step - first
    if lr.schedule == "table":
        return lr.values[min(s, len(lr.values) - 1)]
    peak = lr.peak
    if lr.base_batch is not None:
        peak = lr_for_batch(peak, lr.base_batch, batch_at(job, step)[0])
    warmup = warmup_steps(lr, job.data.samples)
    if s - lr.warmup_from < warmup:
        return peak * (s - lr.warmup_from) / warmup
    if lr.schedule == "constant":
        return peak
    if lr.schedule == "piecewise":
        factor = 1.0
        for boundary, value in zip(lr.boundaries, lr.factors, strict=True):
            factor = value if s >= boundary else factor
        return peak * factor
    begin = max(0, warmup + lr.warmup_from) if lr.decay_from == "warmup" else 0
    progress = min(1.0, max(0.0, (s - begin) / max(1, steps - begin)))
    if lr.schedule == "cosine":
        return lr.final + (peak - lr.final) * (1.0 + math.cos(math.pi * progress)) / 2
    return lr.final + (peak - lr.final) * float((1.0 - progress) ** lr.power)


def lr_for_batch(base_lr: float, base_batch: int, batch: int) -> float:
    """Square-root scaling: base_lr * sqrt(batch / base_batch). Source: You et al. 2020, section 4."""
    return base_lr * math.sqrt(batch / base_batch)


def warmup_steps(lr: LearningRate, data_samples: int) -> int:
    """Steps of the warm-up: as given, or by linear-epoch warm-up.

    You et al. 2020 let the warm-up's passes over the data grow linearly with the batch: epochs * B / base
    passes of data / B steps each are the same number of steps at every batch.
    """
    if lr.warmup_epochs is None or lr.base_batch is None:
        return lr.warmup_steps
    return round(lr.warmup_epochs * data_samples / lr.base_batch)


def segments(job: Job) -> list[tuple[LearningRate, int, int]]:
    """(schedule, first step, steps) of each stretch between two stages with `rewarm`, in order."""
    found: list[tuple[LearningRate, int]] = [(job.optimizer.lr, 0)]
    step = 0
    for stage in job.batch.stage:
        if stage.rewarm:
            entry = (stage.lr or job.optimizer.lr, step)
            found = [*found, entry] if step else [entry]
        step += stage.steps
    ends = [first for _, first in found[1:]]
    ends.append(max(job.stop.steps, found[-1][1] + 1))
    return [(lr, first, end - first) for (lr, first), end in zip(found, ends, strict=True)]


def _segment(job: Job, step: int) -> tuple[LearningRate, int, int]:
    return next(entry for entry in reversed(segments(job)) if entry[1] <= step)


def batch_at(job: Job, step: int) -> tuple[int, int]:
    """(global batch, samples of a slot) of step t."""
    end = 0
    for stage in job.batch.stage:
        end += stage.steps
        if step < end or stage is job.batch.stage[-1]:
            return stage.samples or job.batch.samples, stage.slot_samples or job.batch.slot_samples
    return job.batch.samples, job.batch.slot_samples


def check_plan(job: Job) -> None:
    """Whether a job's end, rates and data reach as far as its batch plan; asked when it is created.

    Not asked again when it is changed or restored: `stop.steps` may be lowered at any time. Raises BadConfig
    with one line for each contradiction.
    """
    found = list(_too_long(job)) or [*_rates_too_short(job), *_data_too_small(job)]
    if found:
        raise BadConfig("\n".join(found))


def _too_long(job: Job) -> Iterator[str]:
    planned = sum(stage.steps for stage in job.batch.stage)
    if planned > job.stop.steps:
        counts = " + ".join(str(stage.steps) for stage in job.batch.stage)
        yield (
            f"stop.steps = {job.stop.steps} ends before the batch plan: its stages have {counts} = {planned} "
            f"steps; give stop.steps = {planned}, or stages of {job.stop.steps} steps together"
        )


def _rates_too_short(job: Job) -> Iterator[str]:
    for lr, first, steps in segments(job):
        last = first + steps - 1
        if lr.values and len(lr.values) < steps:
            yield (
                f"the learning rate's table ends before the plan: {len(lr.values)} values for the {steps} "
                f"steps {first} to {last}; give {steps} values, or let the plan end earlier"
            )
        warmup = warmup_steps(lr, job.data.samples)
        if warmup and warmup + lr.warmup_from >= steps:
            yield (
                f"the warm-up does not end before its schedule: {warmup} steps from {lr.warmup_from} on"
                f"{_in_passes(lr, job)}, but the schedule has the {steps} steps {first} to {last}; give a "
                "shorter warm-up, or more steps"
            )


def _in_passes(lr: LearningRate, job: Job) -> str:
    if lr.warmup_epochs is None:
        return ""
    return f" ({lr.warmup_epochs:g} passes over {job.data.samples} samples at a batch of {lr.base_batch})"


def _data_too_small(job: Job) -> Iterator[str]:
    largest = max([stage.samples or job.batch.samples for stage in job.batch.stage] or [job.batch.samples])
    if 0 < job.data.samples < largest:
        yield (
            f"data.samples = {job.data.samples} is too small for the plan: a step reads {largest}, some of "
            f"them twice; give more data, or batches of at most {job.data.samples}"
        )
