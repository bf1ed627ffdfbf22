"""The coordinator's books at a version: all it knows of a job that outlives its process, as one value.

`take` makes them and `give` is its inverse; a checkpoint keeps them beside the weights, and a log that begins
with them needs nothing that stood before.
"""

from __future__ import annotations

from sheepfold_server.core.administration import changes_of
from sheepfold_server.core.batch import BatchPlan
from sheepfold_server.core.files import FileLedger
from sheepfold_server.core.granting import Granting
from sheepfold_server.core.records import Ledger
from sheepfold_server.core.state import JobState
from sheepfold_wire.job import job_from_json


def take(state: JobState, granting: Granting) -> Ledger:
    """Between two steps: none is decided that is not published."""
    counts, found = state.attempts.counts(), state.evaluations
    sequences, returned = granting.accounts()
    return Ledger(
        version=state.version,
        config_json=state.config.created.to_json(),
        changes=tuple(state.config_changes),
        stop_after=state.stop_after,
        attempts_committed=counts.committed,
        attempts_skipped=counts.skipped,
        attempts_dropped=counts.dropped,
        leased_again=counts.leased_again,
        samples_committed=state.samples_committed,
        samples_skipped=state.samples_skipped,
        steps_skipped=state.steps_skipped,
        skipped=tuple(state.skipped),
        loss_scale=state.loss_scale.value,
        loss_scale_applied=state.loss_scale.applied,
        loss_scales=tuple(sorted(state.loss_scales.items())),
        best_version=found.best_version,
        best_value=found.best_value,
        since_best=found.since_best,
        newest_evaluated=found.newest,
        sequences=sequences,
        returned=returned,
        files=None if state.files is None else state.files.accounts(),
        gaps=state.batch.gaps,
        ancestry=state.checkpoints.ancestry,
    )


def give(ledger: Ledger, state: JobState, granting: Granting) -> None:
    """Into a coordinator that was just made for this job."""
    for change in ledger.changes:
        state.config.change(change.from_step, changes_of(change.changes_json))
    state.config_changes = list(ledger.changes)
    state.batch = BatchPlan(state.config.created, ledger.gaps)
    state.version, state.stop_after = ledger.version, ledger.stop_after
    attempts, found = state.attempts, state.evaluations
    attempts.committed, attempts.skipped = ledger.attempts_committed, ledger.attempts_skipped
    attempts.dropped, attempts.leased_again = ledger.attempts_dropped, ledger.leased_again
    attempts.drops["before"] = ledger.attempts_dropped
    attempts.leased = attempts.committed + attempts.skipped + attempts.dropped
    state.samples_committed, state.samples_skipped = ledger.samples_committed, ledger.samples_skipped
    state.steps_skipped = ledger.steps_skipped
    state.skipped.extend(ledger.skipped)
    state.loss_scale.value, state.loss_scale.applied = ledger.loss_scale, ledger.loss_scale_applied
    state.loss_scales = dict(ledger.loss_scales)
    found.best_version, found.best_value = ledger.best_version, ledger.best_value
    found.since_best, found.newest = ledger.since_best, ledger.newest_evaluated
    granting.begin_at(ledger.sequences, ledger.returned)
    if ledger.files is not None:
        state.files = FileLedger(job_from_json(ledger.config_json).data)
        state.files.begin_at(ledger.files)
