"""A job that is not here, from a checkpoint that another coordinator kept."""

from __future__ import annotations

from collections.abc import Sequence

import sheepfold_wire.messages as m
from sheepfold_server.core.records import Books, Ledger, Rewound
from sheepfold_server.shell.checkpoint_desk import CheckpointDesk, new_lineage
from sheepfold_server.shell.part_store import StoreErrors
from sheepfold_server.storage.checkpoints import CheckpointIndex
from sheepfold_server.storage.log.errors import LogMismatch
from sheepfold_wire.errors import CheckpointFailed, NoCheckpoint, NotReady, NumericsMismatch


def books_of_checkpoint(
    desk: CheckpointDesk, request: m.RestoreRequest, shard_count: int, hellos: Sequence[m.Hello]
) -> tuple[Books, tuple[str, ...]]:
    """(books the job begins with, what was passed over); reads every file of the checkpoint.

    Raises NoCheckpoint, CheckpointFailed, NumericsMismatch, NotReady.
    """
    if len(hellos) < shard_count:
        raise NotReady(f"{len(hellos)} of {shard_count} shards are up; start the others first")
    (index, ledger), passed_over = _newest(desk, request)
    _check_numerics(index, hellos, request.accepts_new_numerics)
    ref = m.CheckpointRef(index.lineage, index.version, index.term)
    lineage = new_lineage()
    books = Books(
        lineage=lineage,
        shard_count=shard_count,
        kernel=index.kernel,
        manifest_json=index.manifest_json,
        ledger=ledger,
        kept=ref,
        ancestry=(*(older for older in ledger.ancestry if older.lineage != ref.lineage), ref),
        why=f"restored by {request.author} from version {ref.version} of {index.shard_count} shards",
        rewinds=(Rewound(request.request_id, m.RewindReply(lineage, ref.version)),),
    )
    return books, passed_over


def _newest(
    desk: CheckpointDesk, request: m.RestoreRequest
) -> tuple[tuple[CheckpointIndex, Ledger], tuple[str, ...]]:
    try:
        found, passed_over = desk.newest(request.job, request.version)
    except (*StoreErrors, LogMismatch) as error:
        raise CheckpointFailed(f"{desk.url} cannot be read: {error}") from None
    if found is None:
        wanted = "no checkpoint" if request.version is None else f"no version {request.version}"
        told = "".join(f"; passed over: {text}" for text in passed_over)
        raise NoCheckpoint(f"{wanted} of job {request.job} that verifies in {desk.url}{told}")
    return found, passed_over


def _check_numerics(index: CheckpointIndex, hellos: Sequence[m.Hello], accepts_new: bool) -> None:
    other = next((h for h in hellos if h.numeric_fingerprint != index.numeric_fingerprint), None)
    if other is not None and not accepts_new:
        raise NumericsMismatch(
            f"the checkpoint was computed with {index.numeric_fingerprint}, shard {other.shard} computes "
            f"with {other.numeric_fingerprint}: the same steps would give other bits; accept that with "
            "--accept-new-numerics"
        )
    without = next((h for h in hellos if index.kernel not in h.kernels), None)
    if without is not None:
        raise NumericsMismatch(
            f"the job computes with the {index.kernel} kernel, which shard {without.shard} does not have: "
            f"{without.kernel_note}"
        )
