"""Numbers that user scripts log or evaluate: what is allowed, and their means."""

from __future__ import annotations

import math
from collections.abc import Sequence

import sheepfold_wire.messages as m

METRICS_MAX = 64
METRIC_NAME_MAX = 64


def why_metrics_refused(metrics: Sequence[m.Metric]) -> str:
    """What is wrong with a user's metrics, in words; "" if they may be reported."""
    if len(metrics) > METRICS_MAX:
        return f"it has {len(metrics)} metrics; give at most {METRICS_MAX}"
    for metric in metrics:
        if not 0 < len(metric.name) <= METRIC_NAME_MAX:
            return f"a metric's name has {len(metric.name)} characters; give 1 to {METRIC_NAME_MAX}"
        if not math.isfinite(metric.value):
            return f"its metric {metric.name} is {metric.value}; give a finite number"
    return ""


def mean_metrics(facts: Sequence[m.Facts]) -> tuple[m.Metric, ...]:
    """Mean of each metric by weight, over the contributions that have it, in order of name."""
    sums: dict[str, tuple[float, float]] = {}
    for fact in facts:
        for metric in {metric.name: metric for metric in fact.metrics}.values():
            total, weight = sums.get(metric.name, (0.0, 0.0))
            sums[metric.name] = total + metric.value * fact.weight, weight + fact.weight
    return tuple(m.Metric(name, total / weight) for name, (total, weight) in sorted(sums.items()))
