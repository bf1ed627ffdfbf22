"""Where the samples and the attempts of a published step went."""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.state import JobState
from sheepfold_server.core.steps import OpenStep


def account(state: JobState, step: OpenStep, granting: Granting) -> None:
    """All that a committed step changes here; the same when read from the log."""
    assert step.decision is not None
    is_skip = step.decision.is_skip
    state.steps_skipped += is_skip
    _count_samples(state, step)
    for attempt in state.attempts:
        if attempt.step != step.step or attempt.is_init:
            continue
        if attempt.is_admitted and step.is_full():
            _settle(state, attempt, "" if not is_skip else f"step skipped: {step.skip_reason}")
        else:
            granting.end(attempt, "step skipped")
    granting.settled(step.sequence)
    if step.loss_scale and state.job.loss_scale is not None:
        growth = state.job.loss_scale.growth_steps
        state.loss_scale.committed(step.loss_scale, step.overflowed, is_skip, growth)
    state.version = step.step + 1
    state.loss_scales[state.version] = state.loss_scale.value
    state.loss_scales.pop(state.version - state.job.batch.open_steps - 1, None)
    state.steps.pop(step.step, None)


def _count_samples(state: JobState, step: OpenStep) -> None:
    """Committed or skipped. A step given up before it was full still had its place in the sample stream."""
    assert step.decision is not None
    if step.is_full() and not step.decision.is_skip:
        state.samples_committed += sum(a.facts.samples for a in step.winners() if a.facts)
        return
    if state.files is not None:  # the ledger counts: samples of a step given up are leased again
        return
    if step.is_full():
        state.samples_skipped += sum(a.facts.samples for a in step.winners() if a.facts)
    else:
        state.samples_skipped += state.batch.samples(step.step)
    if state.job.data.mode == "indexed":
        number = step.step if step.sequence is None else step.sequence
        state.skipped.append(m.SampleRange(state.batch.slot_range(number, 0)[0], state.batch.samples(number)))


def _settle(state: JobState, attempt: Attempt, why_skipped: str) -> None:
    """An admitted attempt of a full step: committed, or skipped with it."""
    is_skip = bool(why_skipped)
    state.attempts.commit(attempt, is_skip)
    state.workers.note_committed(attempt)
    state.workers.tell_end(attempt, why_skipped or "committed", is_committed=not is_skip)
    if state.files is not None:
        state.files.settle(attempt.id, is_skip)


def skipped_samples(state: JobState) -> tuple[m.SampleRange, ...]:
    """Samples that no version covers, the newest last."""
    if state.files is not None:
        return tuple(state.files.position(piece) for piece in state.files.skipped)
    return tuple(state.skipped)
