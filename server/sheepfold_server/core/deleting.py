"""Whether a job may be deleted: once it has ended, and a checkpoint that verifies holds its newest version.

The job decides; once the shell has written that down, nobody hears of it any more.
"""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.core.events import CheckpointVerified, Delete, Refuse, VerifyCheckpoint
from sheepfold_server.core.state import JobState, Life
from sheepfold_wire.errors import CheckpointFailed, NotReady, PreconditionError, SheepfoldError
from sheepfold_wire.ids import NOTHING_LOADED


class Deleting:
    """Answers calls that ask to delete one job, one at a time."""

    def __init__(self, state: JobState) -> None:
        self._s = state
        self._asked: tuple[int, m.DeleteJobRequest, m.CheckpointRef] | None = None
        """Caller and call, while that checkpoint is read."""

    def ask(self, caller: int, request: m.DeleteJobRequest) -> None:
        """Raises PreconditionError for a job that may not be deleted; else answers later."""
        if self._asked is not None:
            raise NotReady(f"job {self._s.name} is being deleted already; ask again in a moment")
        kept = self._needed(request)
        if kept is None:
            self._delete(caller, request)
        else:
            self._asked = caller, request, kept
            self._s.outbox.append(VerifyCheckpoint(kept))

    def on_verified(self, event: CheckpointVerified) -> None:
        """It was read whole: delete the job if it is still as it was."""
        if self._asked is None:
            return
        (caller, request, kept), self._asked = self._asked, None
        try:
            if event.why:
                raise CheckpointFailed(
                    f"job {self._s.name} is not deleted: the checkpoint of its newest version is damaged, "
                    f"{event.why}; {self._way_out}"
                )
            if self._needed(request) not in (None, kept):
                raise NotReady(f"job {self._s.name} has changed meanwhile; ask again")
        except SheepfoldError as error:
            self._s.outbox.append(Refuse(caller, error))
        else:
            self._delete(caller, request)

    def _needed(self, request: m.DeleteJobRequest) -> m.CheckpointRef | None:
        """The checkpoint that must verify first; None if nothing is to be kept. Raises PreconditionError."""
        state = self._s
        if state.life is not Life.ENDED:
            raise PreconditionError(
                f"job {state.name} has not ended, it is {state.life.value}; end it first: "
                f"`sheepfold job stop {state.name}`"
            )
        if state.checkpoints.is_going_back:
            raise NotReady(f"job {state.name} is going back to a checkpoint; ask again in a moment")
        if request.without_checkpoint or state.version == NOTHING_LOADED:
            return None
        kept, told = state.checkpoints.kept, f"version {state.version} of job {state.name}, its newest,"
        if not state.checkpoints.url:
            raise PreconditionError(f"{told} is in no checkpoint, none are kept here; {self._way_out}")
        if kept is not None and (kept.version, kept.lineage) == (state.version, state.lineage):
            return kept
        older = "" if kept is None else f" (version {kept.version} is)"
        raise PreconditionError(
            f"{told} is in no checkpoint{older}: `sheepfold checkpoint save {state.name}` keeps it; "
            "--without-checkpoint gives it up"
        )

    @property
    def _way_out(self) -> str:
        name = self._s.name
        return (
            f"take its weights out by `sheepfold export {name} --into DIR`, then give --without-checkpoint, "
            "which loses its optimizer state"
        )

    def _delete(self, caller: int, request: m.DeleteJobRequest) -> None:
        state = self._s
        kept, lineages = state.checkpoints.kept, [state.lineage]
        lineages += [ref.lineage for ref in reversed(state.checkpoints.ancestry)]
        lineages += [known.reply.lineage for known in state.checkpoints.rewinds]
        away = [number for number, shard in enumerate(state.shards) if not shard.is_up]
        reply = m.DeleteJobReply(
            version=state.version,
            kept_version=NOTHING_LOADED if kept is None else kept.version,
            checkpoint_url=state.checkpoints.url,
            shards_away=tuple(away),
        )
        state.outbox.append(Delete(caller, request, tuple(dict.fromkeys(lineages)), reply))
