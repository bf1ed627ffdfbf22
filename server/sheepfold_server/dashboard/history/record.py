"""What a step report becomes on disk: scalars, the report without its slices, and the slices as an array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sheepfold_wire.messages as m
from sheepfold_wire.convert import from_proto, proto_class, to_proto

SCALARS = (
    "loss",
    "learning_rate",
    "gradient_norm",
    "clip_scale",
    "samples",
    "weight",
    "step_seconds",
    "wait_seconds",
    "prepare_seconds",
    "apply_seconds",
    "bytes_in",
    "bytes_out",
    "slots_leased_again",
    "noise_scale",
    "samples_per_second",
    "is_skip",
    "fold_seconds",
    "commit_seconds",
    "update_seconds",
    "staleness_steps",
)
"""In the order of the stored vector; behind them the metrics, in the order in which they first came.

`apply_seconds` is commit (until the decision is durable) and update (the shards' passes); folding, of the
slowest shard, goes on while slots are waited for. `staleness_steps`: how far behind the weights were that the
oldest contribution was computed at.
"""
METRIC_PREFIX = "metric:"

SLICE_VALUES = ("trust_ratio", "weight_norm", "update_norm", "gradient_norm", "clamped")
RATIO, WEIGHT, UPDATE, GRADIENT, CLAMP = range(5)
CLAMPS = ("", "phi", "ratio")
"""`clamped` is stored as the number of the bound, so that 0 is none."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Record:
    """One step as it is stored. `scalars` (series,), `slices` (slices, 5), both float64."""

    step: int
    is_skip: bool
    samples: int
    scalars: Floats
    report: bytes
    slices: Floats


def record_of(report: m.StepReport, metrics: Sequence[str], noise_scale: float | None = None) -> Record:
    """The record of a report; `metrics` are the names known in its lineage, in stored order."""
    logged = {metric.name: metric.value for metric in report.metrics}
    seconds = report.wait_seconds + report.prepare_seconds + report.apply_seconds
    scalars = [
        np.nan if report.loss is None else report.loss,
        report.learning_rate,
        report.gradient_norm,
        report.clip_scale,
        report.samples,
        report.weight,
        seconds,
        report.wait_seconds,
        report.prepare_seconds,
        report.apply_seconds,
        report.bytes_in,
        report.bytes_out,
        sum(max(0, slot.attempts - 1) for slot in report.slots),
        np.nan if noise_scale is None else noise_scale,
        report.samples / seconds if seconds > 0 else np.nan,
        float(report.is_skip),
        max((shard.fold_seconds for shard in report.shards), default=np.nan),
        report.commit_seconds,
        max(0.0, report.apply_seconds - report.commit_seconds),
        report.staleness_steps,
        *(logged.get(name, np.nan) for name in metrics),
    ]
    return Record(
        report.step,
        report.is_skip,
        report.samples,
        np.array(scalars, np.float64),
        to_proto(replace(report, slices=())).SerializeToString(),
        slice_values(report.slices),
    )


def slice_values(slices: Sequence[m.SliceFacts]) -> Floats:
    """(slices, 5), by the number of the slice; NaN for one that the step did not touch."""
    if not slices:
        return np.empty((0, len(SLICE_VALUES)))
    facts = np.array(
        [
            (s.slice, s.trust_ratio, s.weight_norm, s.update_norm, s.gradient_norm, CLAMPS.index(s.clamp))
            for s in slices
        ],
        np.float64,
    )
    numbers = facts[:, 0].astype(np.int64)
    values = np.full((int(numbers.max()) + 1, len(SLICE_VALUES)), np.nan)
    values[numbers] = facts[:, 1:]
    return values


def slice_facts(values: NDArray[np.floating[Any]], names: Sequence[str]) -> tuple[m.SliceFacts, ...]:
    """The slices of a step again, bit by bit."""
    return tuple(
        m.SliceFacts(number, names[number], weight, update, gradient, ratio, CLAMPS[int(clamp)])
        for number, (ratio, weight, update, gradient, clamp) in enumerate(values.tolist())
        if clamp == clamp  # NaN: not touched
    )


def report_of(stored: bytes) -> m.StepReport:
    """The report without its slices."""
    return from_proto(m.StepReport, proto_class(m.StepReport).FromString(stored))
