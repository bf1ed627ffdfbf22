"""Whether a contribution that every shard has staged may count."""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.metrics import why_metrics_refused
from sheepfold_server.core.state import JobState
from sheepfold_wire.messages import WEIGHT_MIN

WEIGHT_MAX = 1e30
"""Factors of the fold are fp32, and neither they nor their sum may leave its range."""


def why_refused(state: JobState, attempt: Attempt, facts: m.Facts) -> str:
    """What is wrong with its facts, in words; "" if it may count."""
    if attempt.is_init:
        return ""
    batch = state.job.batch
    due = state.batch.slot_samples(attempt.slot if attempt.step is None else attempt.step)
    if not WEIGHT_MIN <= facts.weight <= WEIGHT_MAX:  # NaN is not within either
        return f"its weight is {facts.weight}; give one from {WEIGHT_MIN:g} to {WEIGHT_MAX:g}"
    if facts.samples < 0:
        return f"it covers {facts.samples} samples"
    if state.job.data.mode != "free" and facts.samples != due:
        return f"it covers {facts.samples} samples, its slot has {due}"
    newest = state.version if batch.max_staleness else attempt.base_version
    if not attempt.base_version <= facts.base_version <= newest:
        return f"it was computed at version {facts.base_version}, its lease says {attempt.base_version}"
    if wrong := why_metrics_refused(facts.metrics):
        return wrong
    if batch.absent == "refuse" and attempt.step in state.steps:
        winners = [slot.winner for slot in state.steps[attempt.step].slots if slot.winner is not None]
        if any(w.facts is not None and w.facts.present != facts.present for w in winners):
            return "its set of present tensors differs from the others' of its step (batch.absent = refuse)"
    return ""


def refused_too_often(state: JobState, attempt: Attempt, times: int, why: str) -> str:
    """Why a slot is given up, with the samples that nobody could use."""
    number, slot = (attempt.slot, 0) if attempt.step is None else (attempt.step, attempt.slot)
    if state.files is not None:
        return f"slot {slot} of step {number} was refused {times} times, last: {why}"
    start, count = state.batch.slot_range(number, slot)
    return (
        f"slot {slot} of step {number} (samples {start} to {start + count - 1} of the stream) "
        f"was refused {times} times, last: {why}"
    )
