"""sheepfold_server.core.deleting: which job may be deleted, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.desk import MODEL, Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.state import Life
from sheepfold_server.core.steps import Decided
from sheepfold_wire.errors import CheckpointFailed, NotReady, PreconditionError

URL = "memory://kept"
REQUEST = m.DeleteJobRequest("r", "j", "ann")


def ended(checkpoint_url: str = URL) -> Desk:
    """A job of one step, which is made."""
    desk = Desk(job_of(slots=1, stop={"steps": 1}), checkpoint_url=checkpoint_url).start()
    keep(desk, 0)
    desk.fill()
    desk.finish(0)
    assert desk.coordinator.has_ended
    return desk


def keep(desk: Desk, version: int) -> None:
    """Its shards and the store do what the job wants by itself."""
    if desk.sent(m.SaveCheckpoint)[-1:] == [m.SaveCheckpoint("j", version)]:
        desk.from_all(m.PartSaved("j", version, "part", 1, "sum"))
        desk.tell(e.IndexStored(version))


def kept() -> Desk:
    desk = ended()
    keep(desk, 1)
    assert desk.state.checkpoints.kept == m.CheckpointRef("lineage", 1, 1)
    return desk


def deletions(desk: Desk) -> list[e.Delete]:
    return [effect for effect in desk.effects if isinstance(effect, e.Delete)]


def test_job_that_has_not_ended_is_refused_with_the_command_that_ends_it() -> None:
    desk = Desk(checkpoint_url=URL).start()
    with pytest.raises(PreconditionError, match=r"job j has not ended, it is running; .*`sheepfold job stop"):
        desk.ask(REQUEST)
    with pytest.raises(PreconditionError, match="has not ended"):
        desk.ask(replace(REQUEST, without_checkpoint=True))
    assert deletions(desk) == []


def test_ended_job_is_deleted_once_the_checkpoint_of_its_newest_version_is_read() -> None:
    desk = kept()
    assert desk.ask(REQUEST) is None
    (verify,) = [effect for effect in desk.effects if isinstance(effect, e.VerifyCheckpoint)]
    assert verify.ref == m.CheckpointRef("lineage", 1, 1)
    assert deletions(desk) == []
    desk.tell(e.CheckpointVerified())
    (delete,) = deletions(desk)
    assert (delete.request, delete.lineages) == (REQUEST, ("lineage",))
    assert delete.reply == m.DeleteJobReply(1, 1, URL, ())


def test_damaged_checkpoint_is_no_reason_to_delete_and_the_next_call_is_heard() -> None:
    desk = kept()
    caller = desk._callers + 1
    assert desk.ask(REQUEST) is None
    desk.tell(e.CheckpointVerified("part: 3 bytes, 4 are due"))
    with pytest.raises(CheckpointFailed, match=r"part: 3 bytes.*sheepfold export j.*--without-checkpoint"):
        desk.answer_of(caller)
    assert deletions(desk) == []
    assert desk.ask(replace(REQUEST, request_id="s")) is None
    desk.tell(e.CheckpointVerified())
    assert len(deletions(desk)) == 1


def test_newest_version_in_no_checkpoint_is_refused_with_the_command_that_keeps_it() -> None:
    desk = ended()
    with pytest.raises(
        PreconditionError,
        match=r"version 1 of job j, its newest, is in no checkpoint \(version 0 is\): "
        r"`sheepfold checkpoint save j` keeps it; --without-checkpoint",
    ):
        desk.ask(REQUEST)
    assert deletions(desk) == []


def test_where_no_checkpoints_are_kept_the_way_out_is_an_export() -> None:
    desk = ended(checkpoint_url="")
    with pytest.raises(PreconditionError, match=r"version 1 .* none are kept here; .*`sheepfold export j"):
        desk.ask(REQUEST)
    desk.ask(replace(REQUEST, without_checkpoint=True))
    (delete,) = deletions(desk)
    assert delete.reply == m.DeleteJobReply(1, -1, "", ())


def test_what_may_be_lost_is_not_read_first_and_what_is_kept_is_said() -> None:
    desk = ended()
    desk.ask(replace(REQUEST, without_checkpoint=True))
    (delete,) = deletions(desk)
    assert delete.reply == m.DeleteJobReply(1, 0, URL, ())


def test_job_that_never_began_has_nothing_to_keep() -> None:
    desk = Desk(checkpoint_url=URL)
    desk.ask(m.ControlRequest("j", "stop", "ann"))
    desk.ask(REQUEST)
    (delete,) = deletions(desk)
    assert delete.reply == m.DeleteJobReply(-1, -1, URL, (0, 1))


@pytest.mark.parametrize("is_unusable", [False, True])
def test_job_that_waits_for_initial_weights_or_cannot_run_here_ends_when_it_is_stopped(
    is_unusable: bool,
) -> None:
    """Else it could never be deleted: nobody may ever bring a first version."""
    desk = Desk(part_slots=1 if is_unusable else 8)
    for shard in desk.shards:
        desk.connect(shard)
    desk.ask(m.CreateJobRequest("", desk.job.to_json(), MODEL.to_json()))
    for shard in desk.shards:
        desk.opened(shard)
    assert desk.state.life is (Life.PAUSED if is_unusable else Life.INITIALISING)
    assert desk.ask(m.ControlRequest("j", "stop", "ann")) == m.ControlReply("ended")
    desk.ask(REQUEST)
    assert len(deletions(desk)) == 1


def test_stop_right_after_a_restart_ends_the_job_at_the_version_it_has() -> None:
    """While shards are opening it, its newest step may be decided, and not applied yet: that one counts."""
    desk = ended()
    records = [effect.record for effect in desk.effects if isinstance(effect, e.Persist)]
    (decided,) = (number for number, record in enumerate(records) if isinstance(record, Decided))
    again = Desk(desk.job, checkpoint_url=URL)
    again.coordinator.remember(records[: decided + 1])
    assert again.state.life is Life.OPENING
    assert again.ask(m.ControlRequest("j", "stop", "ann")) == m.ControlReply("running")
    with pytest.raises(PreconditionError, match="has not ended"):
        again.ask(replace(REQUEST, without_checkpoint=True))


def test_second_call_waits_for_the_first() -> None:
    desk = kept()
    desk.ask(REQUEST)
    with pytest.raises(NotReady, match="being deleted already"):
        desk.ask(replace(REQUEST, request_id="s"))
    desk.tell(e.CheckpointVerified())
    assert len(deletions(desk)) == 1


def test_job_that_goes_back_meanwhile_is_not_deleted() -> None:
    desk = kept()
    caller = desk._callers + 1
    desk.ask(REQUEST)
    desk.ask(m.RewindRequest("w", "j", 0, (), "bob"))
    desk.tell(e.CheckpointVerified())
    with pytest.raises(NotReady, match="going back"):
        desk.answer_of(caller)
    assert deletions(desk) == []
    with pytest.raises(NotReady, match="going back"):
        desk.ask(REQUEST)


def test_shards_are_told_all_lineages_that_are_known_of_the_job() -> None:
    """One that was away while the job went back may hold logs of each."""
    desk = kept()
    older = m.CheckpointRef("older", 3, 1)
    desk.state.checkpoints.ancestry = (m.CheckpointRef("oldest", 2, 1), older)
    desk.ask(REQUEST)
    desk.tell(e.CheckpointVerified())
    assert deletions(desk)[0].lineages == ("lineage", "older", "oldest")


def test_shard_that_is_away_is_named() -> None:
    desk = kept()
    desk.tell(e.ShardDown(1))
    desk.ask(REQUEST)
    desk.tell(e.CheckpointVerified())
    assert deletions(desk)[0].reply.shards_away == (1,)
