"""What of a step report goes to trackers, under which names."""

from __future__ import annotations

import math

import sheepfold_wire.messages as m


def scalars(report: m.StepReport) -> dict[str, float]:
    """Finite numbers by name. The step of a tracker is the version; a skipped step has no slices."""
    values = {
        "learning_rate": report.learning_rate,
        "gradient_norm": report.gradient_norm,
        "clip_scale": report.clip_scale,
        "samples": float(report.samples),
        "skipped": float(report.is_skip),
        "seconds/wait": report.wait_seconds,
        "seconds/prepare": report.prepare_seconds,
        "seconds/apply": report.apply_seconds,
    }
    if report.loss is not None:
        values["loss"] = report.loss
    values.update({f"user/{metric.name}": metric.value for metric in report.metrics})
    for found in report.slices:
        values[f"trust_ratio/{found.name}"] = found.trust_ratio
        values[f"weight_norm/{found.name}"] = found.weight_norm
        values[f"update_norm/{found.name}"] = found.update_norm
    return {name: value for name, value in values.items() if math.isfinite(value)}
