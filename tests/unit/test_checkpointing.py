"""sheepfold_server.core: when a checkpoint is asked for, when it exists, and how a job goes back to one."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest
from tests.unit.desk import Desk, job_of
from tests.unit.test_remembering import records_of

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.past import books_at
from sheepfold_server.core.records import Books, CheckpointKept, Ledger
from sheepfold_server.core.remembering import identity
from sheepfold_server.core.state import Life
from sheepfold_server.shell.checkpoint_desk import LEDGERS
from sheepfold_server.shell.job_log import VALUES
from sheepfold_wire.errors import BadConfig, CheckpointFailed, NoCheckpoint, NotReady
from sheepfold_wire.job import Job

T = TypeVar("T")
EVERY_STEP = {"every_steps": 1, "every_minutes": 0}


def desk_of(job: Job | None = None) -> Desk:
    return Desk(job or job_of(slots=1, checkpoint=EVERY_STEP), checkpoint_url="store")


def logging_desk() -> Desk:
    """Its shards log mean gradients."""
    desk = desk_of()
    desk.keeps_log = True
    desk.ask(m.CreateJobRequest("first", desk.job.to_json()))
    return desk.start()


def found(desk: Desk, kind: type[T]) -> list[T]:
    return [effect for effect in desk.effects if isinstance(effect, kind)]


def saves(desk: Desk) -> list[int]:
    """Versions that shard 0 was asked to store."""
    return [
        effect.command.version
        for effect in found(desk, e.ToShard)
        if effect.shard == 0 and isinstance(effect.command, m.SaveCheckpoint)
    ]


def part(version: int, why: str = "") -> m.PartSaved:
    return m.PartSaved("j", version, "" if why else f"part-{version}", 10, "0" * 64, why)


def keep(desk: Desk, version: int) -> e.StoreIndex:
    """Both shards and the store do what is asked."""
    desk.from_all(part(version))
    index = found(desk, e.StoreIndex)[-1]
    desk.tell(e.IndexStored(version))
    return index


def step(desk: Desk, number: int) -> None:
    desk.stage(desk.leased("a"))
    desk.finish(number)


def test_version_0_is_kept_at_once_and_others_as_often_as_the_job_says() -> None:
    desk = desk_of(job_of(slots=1, checkpoint={"every_steps": 2, "every_minutes": 0})).start()
    assert saves(desk) == [0]
    keep(desk, 0)
    for number in range(4):
        step(desk, number)
        if saves(desk)[-1] == number + 1:
            keep(desk, number + 1)
    assert saves(desk) == [0, 2, 4]
    assert desk.state.checkpoints.kept == m.CheckpointRef("lineage", 4, 1)


def test_checkpoints_by_time_wait_for_the_next_version() -> None:
    desk = desk_of(job_of(slots=1, checkpoint={"every_minutes": 1})).start()
    keep(desk, 0)
    desk.wait(61.0)
    assert saves(desk) == [0], "there is nothing newer"
    desk.attach("a")
    step(desk, 0)
    assert saves(desk) == [0, 1]


def test_checkpoint_is_asked_for_only_while_no_step_is_decided() -> None:
    desk = desk_of().start()
    keep(desk, 0)
    desk.stage(desk.leased("a"))
    desk.prepare(0)
    assert desk.ask(m.CheckpointRequest("j", "ann")) is None
    assert saves(desk) == [0], "version 0 is kept, and version 1 is not on every shard"
    desk.from_all(m.Applied("j", 0, ()))
    assert saves(desk) == [0, 1]


def test_checkpoint_exists_only_once_every_part_and_the_index_are_stored() -> None:
    desk = desk_of().start()
    desk.ask(m.CheckpointRequest("j", "ann"))
    caller = desk._callers
    desk.from_shard(0, part(0))
    assert not found(desk, e.StoreIndex)
    desk.from_shard(1, part(0))
    index = found(desk, e.StoreIndex)[0]
    assert [p.file for p in index.parts] == ["part-0", "part-0"]
    assert desk.answer_of(caller) is None
    assert desk.state.checkpoints.kept is None
    desk.tell(e.IndexStored(0))
    assert desk.answer_of(caller) == m.CheckpointReply(0)
    records = [effect.record for effect in found(desk, e.Persist)]
    assert CheckpointKept(m.CheckpointRef("lineage", 0, 1)) in records


@pytest.mark.parametrize("fault", ["a part", "the index", "a link", "a shard that never answers"])
def test_checkpoint_that_fails_is_told_and_tried_again(fault: str) -> None:
    desk = desk_of().start()
    desk.ask(m.CheckpointRequest("j", "ann"))
    caller = desk._callers
    match fault:
        case "a part":
            desk.from_shard(1, part(0, "no space"))
        case "the index":
            desk.from_all(part(0))
            desk.tell(e.IndexStored(0, "no space"))
        case "a link":
            desk.tell(e.ShardDown(1))
        case _:
            desk.wait(3601.0)
    with pytest.raises(CheckpointFailed, match=r"no checkpoint of version 0: .*older ones are as they were"):
        desk.answer_of(caller)
    desk.from_all(part(0))
    assert len(found(desk, e.StoreIndex)) == (fault == "the index"), "what comes late counts for nothing"
    if fault == "a link":
        desk.connect(1, is_resumed=True)
        desk.opened(1, 0)
    assert saves(desk) == [0]
    desk.wait(31.0)
    assert saves(desk) == [0, 0]


def test_at_level_checkpoint_nothing_is_leased_before_version_0_is_kept() -> None:
    job = job_of(slots=1, durability={"level": "checkpoint"})
    desk = Desk(job, checkpoint_url="store").start()
    assert desk.lease("a") is None
    assert "version 0 to be kept" in desk.coordinator.status(0.0).waiting_for
    keep(desk, 0)
    assert desk.lease("a") is not None


def found_at(
    ref: m.CheckpointRef, ledger: Ledger, lineage: str = "second", numerics: str = "eager/cpu"
) -> e.CheckpointFound:
    return e.CheckpointFound(ref, ledger, (ref.version,), lineage, (), numerics)


def go_back(desk: Desk, index: e.StoreIndex, lineage: str = "second") -> Books:
    """The store finds that checkpoint; the books of the new lineage."""
    version = index.books.ledger.version
    ref = m.CheckpointRef(index.books.lineage, version, index.term)
    desk.tell(found_at(ref, index.books.ledger, lineage))
    return found(desk, e.BeginAgain)[-1].books


def made_of(books: Books) -> Desk:
    """Another coordinator, in the next term, of the job of these books."""
    desk = desk_of()
    desk.coordinator = Coordinator(desk.job, 2, 2, books.lineage, "store")
    desk.coordinator.remember([books])
    desk.state = desk.coordinator._state
    return desk


def test_rewind_writes_the_books_first_and_then_gives_its_place_away() -> None:
    desk = desk_of().start()
    index = keep(desk, 0)
    step(desk, 0)
    desk.is_durable = False
    assert desk.ask(m.RewindRequest("r", "j", 0, (), "ann")) is None
    caller = desk._callers
    ref = m.CheckpointRef("lineage", 0, 1)
    desk.tell(found_at(ref, index.books.ledger))
    persisted = found(desk, e.Persist)[-1]
    assert isinstance(persisted.record, Books)
    assert not found(desk, e.BeginAgain)
    assert desk.tell(e.FromWorker(99, m.LeaseRequest("j", "a"))) == [], "nothing is decided any more"
    desk.tell(e.Persisted(persisted.number))
    assert desk.answer_of(caller) == m.RewindReply("second", 0)
    assert found(desk, e.BeginAgain)[0].books == persisted.record


def test_coordinator_made_of_books_goes_on_at_their_version_in_their_lineage() -> None:
    desk = desk_of().start()
    keep(desk, 0)
    step(desk, 0)
    index = keep(desk, 1)
    step(desk, 1)
    desk.ask(m.ConfigChangeRequest("c", "j", -1, '{"optimizer.lr.peak": 0.5}', "ann"))
    desk.ask(m.RewindRequest("r", "j", 1, (m.SampleRange(5, 2),), "ann"))
    books = go_back(desk, index)
    again = made_of(books)
    assert identity([books]) == (desk.job.to_json(), "second", 2)
    assert (again.state.version, again.state.lineage) == (1, "second")
    assert again.state.samples_committed == 4
    assert again.state.job.optimizer.lr.peak == 0.5, "a change that was made later stays"
    assert again.state.batch.slot_range(1, 0) == (7, 4), "samples 5 and 6 are skipped"
    assert again.ask(m.RewindRequest("r", "j", 1, (), "ann")) == m.RewindReply("second", 1)
    for shard in again.shards:
        again.connect(shard)
    opened = [
        f.command for f in again.effects if isinstance(f, e.ToShard) and isinstance(f.command, m.OpenJob)
    ]
    assert {command.restore for command in opened} == {m.CheckpointRef("lineage", 1, 1)}
    assert {command.term for command in opened} == {2}
    again.from_shard(0, m.JobOpened("j", 8, 5, 1))
    assert not again.state.shards[0].is_ready, "an answer to an earlier lineage is none"
    for shard in again.shards:
        again.opened(shard, 1)
    assert again.state.life is Life.RUNNING


def test_shard_that_comes_back_without_its_state_takes_the_job_back() -> None:
    desk = desk_of().start()
    index = keep(desk, 0)
    step(desk, 0)
    desk.tell(e.ShardDown(1))
    desk.connect(1)
    desk.opened(1, -1)
    assert found(desk, e.FindCheckpoint)[0].sources == (("lineage", None),)
    assert desk.lease("a") is None, "the others wait"
    assert "version 1 back to version 0: shard 1 came back with version -1" in go_back(desk, index).why


def test_shard_without_the_mean_gradient_of_a_decided_step_has_lost_its_state() -> None:
    desk = desk_of().start()
    keep(desk, 0)
    desk.stage(desk.leased("a"))
    desk.prepare(0)
    desk.tell(e.ShardDown(1))
    desk.connect(1)
    desk.opened(1, 0)
    asked = found(desk, e.FindCheckpoint)
    assert len(asked) == 1
    events = desk.coordinator.status(0.0).events
    assert "not the mean gradient of step 0" in events[-1].text


def test_where_nothing_verifies_the_job_pauses_and_looks_again_when_it_is_resumed() -> None:
    desk = desk_of().start()
    keep(desk, 0)
    step(desk, 0)
    desk.tell(e.ShardDown(1))
    desk.connect(1)
    desk.opened(1, -1)
    desk.tell(e.CheckpointFound(None, None, (0,), "second", ("part-0 is corrupt",)))
    assert desk.state.life is Life.PAUSED
    assert "no checkpoint verifies (kept: 0); passed over: part-0 is corrupt" in desk.state.why
    desk.ask(m.ControlRequest("j", "resume", "ann"))
    assert len(found(desk, e.FindCheckpoint)) == 2


def test_lineages_that_a_history_left_are_looked_through_up_to_where_it_left_them() -> None:
    desk = desk_of().start()
    index = keep(desk, 0)
    step(desk, 0)
    desk.ask(m.RewindRequest("r", "j", 0, (), "ann"))
    books = go_back(desk, index)
    again = made_of(books)
    for shard in again.shards:
        again.connect(shard)
        again.opened(shard, 0)
    again.ask(m.RewindRequest("s", "j", 0, (), "ann"))
    assert found(again, e.FindCheckpoint)[0].sources == (("second", None), ("lineage", 0))
    ref = m.CheckpointRef("lineage", 0, 1)
    again.tell(found_at(ref, books.ledger, "third"))
    assert found(again, e.BeginAgain)[0].books.ancestry == (ref,), "the lineage that kept nothing is left out"


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (m.RewindRequest("r", "j", 2), BadConfig, "versions 0 to 1"),
        (m.RewindRequest("r", "j", 1, (m.SampleRange(3, 1),)), BadConfig, "from 4 on"),
        (m.RewindRequest("r", "j", 1, (m.SampleRange(4, 0),)), BadConfig, "give 1 or more"),
    ],
)
def test_rewind_that_cannot_be_meant_is_refused_at_once(
    request_: m.RewindRequest, error: type[Exception], text: str
) -> None:
    desk = desk_of().start()
    keep(desk, 0)
    step(desk, 0)
    with pytest.raises(error, match=text):
        desk.ask(request_)
    assert not found(desk, e.FindCheckpoint)


def test_rewind_to_a_version_that_is_not_kept_names_those_that_are() -> None:
    desk = desk_of().start()
    keep(desk, 0)
    step(desk, 0)
    desk.ask(m.RewindRequest("r", "j", 1, (), "ann"))
    caller = desk._callers
    with pytest.raises(NotReady, match="going back to a checkpoint already"):
        desk.ask(m.RewindRequest("s", "j", 1, (), "bob"))
    desk.tell(e.CheckpointFound(None, None, (0,), "second"))
    with pytest.raises(NoCheckpoint, match=r"version 1 of job j is in no checkpoint.*versions 0"):
        desk.answer_of(caller)
    assert desk.state.life is Life.RUNNING


def wants_version_1(desk: Desk) -> int:
    """Two steps are made, version 0 is kept, and a version is asked for that the store does not have."""
    keep(desk, 0)
    step(desk, 0)
    desk.from_shard(0, part(1, "no space"))
    step(desk, 1)
    desk.ask(m.RewindRequest("r", "j", 1, (), "ann"))
    desk.tell(e.CheckpointFound(None, None, (0,), "second"))
    return desk._callers


def test_version_that_the_logs_lead_to_is_made_a_checkpoint_and_gone_back_to() -> None:
    desk = logging_desk()
    caller = wants_version_1(desk)
    assert [effect.version for effect in found(desk, e.FindBooks)] == [1]
    books = books_at(records_of(desk), 1)
    desk.tell(books)
    assert saves(desk)[-1] == 1
    desk.from_all(part(1))
    index = found(desk, e.StoreIndex)[-1]
    assert (index.books, index.config_json) == (books.books, books.config_json)
    assert index.keep is None, "what it was removed for could be this one"
    before = desk.state.checkpoints.kept
    desk.tell(e.IndexStored(1))
    assert desk.state.checkpoints.kept == before == m.CheckpointRef("lineage", 0, 1)
    assert [effect.version for effect in found(desk, e.FindCheckpoint)] == [1, 1]
    assert go_back(desk, index).ledger.version == 1
    assert desk.answer_of(caller) == m.RewindReply("second", 1)


@pytest.mark.parametrize("fault", ["the coordinator's log", "a shard's log", "a link", "the store", "a file"])
def test_version_that_the_logs_do_not_lead_to_is_refused_and_the_job_goes_on(fault: str) -> None:
    desk = logging_desk()
    caller = wants_version_1(desk)
    expected = "the link to shard 1 is down"
    if fault == "the coordinator's log":
        expected = "the log of the coordinator leads to version 5 and later ones"
        desk.tell(e.BooksFound(None, "", "version 5 and later ones"))
    else:
        desk.tell(books_at(records_of(desk), 1))
    match fault:
        case "a shard's log":
            expected = "shard 1: its log leads to version 4"
            desk.from_shard(1, part(1, "its log leads to version 4"))
        case "a link":
            desk.tell(e.ShardDown(1))
        case "the store":
            expected = "no space"
            desk.from_all(part(1))
            desk.tell(e.IndexStored(1, "no space"))
        case "a file":
            expected = "passed over: part-1 is corrupt"
            desk.from_all(part(1))
            desk.tell(e.IndexStored(1))
            desk.tell(e.CheckpointFound(None, None, (0,), "second", ("part-1 is corrupt",)))
    with pytest.raises(NoCheckpoint, match=rf"version 1 of job j is in no checkpoint.*{expected}"):
        desk.answer_of(caller)
    assert not desk.state.checkpoints.is_going_back
    assert len(found(desk, e.FindBooks)) == 1
    assert not found(desk, e.BeginAgain)
    if fault != "a link":
        step(desk, 2)


def test_version_is_not_made_again_while_a_shard_is_away() -> None:
    desk = logging_desk()
    caller = wants_version_1(desk)
    desk.tell(e.ShardDown(0))
    desk.tell(books_at(records_of(desk), 1))
    with pytest.raises(NoCheckpoint, match="shard 0 is not there; ask again once it is"):
        desk.answer_of(caller)


def test_checkpoint_asked_for_meanwhile_is_not_the_one_that_is_made_again() -> None:
    """Its caller would not be answered: this history ends with it."""
    desk = logging_desk()
    wants_version_1(desk)
    desk.tell(books_at(records_of(desk), 1))
    desk.ask(m.CheckpointRequest("j", "bob"))
    caller = desk._callers
    desk.from_shard(0, part(1, "its log leads to version 4"))
    desk.tell(e.Tick())
    keep(desk, 2)
    assert desk.answer_of(caller) == m.CheckpointReply(2)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_books_of_an_earlier_version_are_those_that_were_kept_then(version: int) -> None:
    desk = logging_desk()
    kept = [keep(desk, 0)]
    for number in range(3):
        changes = f'{{"optimizer.lr.peak": 0.{number + 2}}}'
        desk.ask(m.ConfigChangeRequest(str(number), "j", -1, changes, "ann"))
        step(desk, number)
        kept.append(keep(desk, number + 1))
    written = records_of(desk)
    of_the_log = [record for record in written if not isinstance(record, Books)]
    for records in (written, of_the_log):
        again = books_at(records, version)
        assert again.books is not None
        ledger = again.books.ledger
        assert replace(ledger, changes=()) == replace(kept[version].books.ledger, changes=())
        last = kept[min(version + 1, 3)]
        assert ledger.changes == last.books.ledger.changes, "up to where the next step was decided"
        assert again.config_json == last.config_json


def test_log_that_was_cut_says_which_version_it_leads_to() -> None:
    desk = logging_desk()
    for number in range(3):
        keep(desk, number)
        step(desk, number)
    records = records_of(desk)
    cut = next(i for i, each in enumerate(records) if isinstance(each, Books) and each.ledger.version == 2)
    assert books_at(records[cut - 1 :], 1).why == "version 2 and later ones"
    assert books_at(records[cut - 1 :], 2).books == books_at(records, 2).books
    assert books_at([], 1).books is None


def test_books_are_read_back_from_log_and_index_as_they_were_written() -> None:
    desk = desk_of().start()
    books = keep(desk, 0).books
    odd = replace(
        books.ledger,
        loss_scales=((1, 0.1), (2, 65536.0)),
        skipped=(m.SampleRange(3, 4),),
        returned=(3, 5),
        best_value=0.1 + 0.2,
        stop_after=7,
    )
    assert VALUES.decode(VALUES.encode(replace(books, ledger=odd))) == replace(books, ledger=odd)
    again = LEDGERS.decode(LEDGERS.encode(odd))
    assert isinstance(again, Ledger)
    assert again == odd


def test_checkpoint_of_other_numerics_is_not_gone_back_to() -> None:
    desk = desk_of().start()
    index = keep(desk, 0)
    step(desk, 0)
    desk.ask(m.RewindRequest("r", "j", 0, (), "ann"))
    caller = desk._callers
    desk.tell(found_at(m.CheckpointRef("lineage", 0, 1), index.books.ledger, numerics="cuda/torch-9"))
    with pytest.raises(NoCheckpoint, match=r"computed with cuda/torch-9, shard 0 computes with eager/cpu"):
        desk.answer_of(caller)
    assert desk.lease("a") is not None, "the job goes on as it is"


def lose(desk: Desk) -> None:
    desk.tell(e.ShardDown(1))
    desk.connect(1)
    desk.opened(1, -1)


def test_shard_that_comes_back_whole_meanwhile_has_lost_nothing() -> None:
    desk = desk_of().start()
    index = keep(desk, 0)
    step(desk, 0)
    lose(desk)
    desk.tell(e.ShardDown(1))
    desk.connect(1)
    desk.opened(1, 1)
    desk.tell(found_at(m.CheckpointRef("lineage", 0, 1), index.books.ledger))
    assert not found(desk, e.BeginAgain)
    step(desk, 1)
    assert desk.state.version == 2


def test_resumed_job_does_not_go_back_for_what_came_back_whole() -> None:
    desk = Desk(job_of(slots=1)).start()
    step(desk, 0)
    lose(desk)
    assert desk.coordinator.status(0.0).state == "paused"
    desk.tell(e.ShardDown(1))
    desk.connect(1)
    desk.opened(1, 1)
    desk.ask(m.ControlRequest("j", "resume", "ann"))
    assert desk.coordinator.status(0.0).state == "running"


def test_shard_lost_while_a_rewind_fails_is_looked_for_then() -> None:
    desk = desk_of().start()
    keep(desk, 0)
    step(desk, 0)
    desk.ask(m.RewindRequest("r", "j", 1, (), "ann"))
    lose(desk)
    assert len(found(desk, e.FindCheckpoint)) == 1
    desk.tell(e.CheckpointFound(None, None, (0,), "second"))
    assert [asked.version for asked in found(desk, e.FindCheckpoint)] == [1, None]


def test_no_checkpoint_is_made_while_one_to_go_back_to_is_looked_for() -> None:
    desk = desk_of().start()
    keep(desk, 0)
    step(desk, 0)
    assert saves(desk) == [0, 1]
    desk.ask(m.RewindRequest("r", "j", 0, (), "ann"))
    desk.from_all(part(1))
    assert len(found(desk, e.StoreIndex)) == 1, "its retention could remove what is found"


def test_pause_that_comes_while_a_checkpoint_is_looked_for_outlives_going_back() -> None:
    desk = desk_of().start()
    index = keep(desk, 0)
    step(desk, 0)
    desk.ask(m.RewindRequest("r", "j", 0, (), "ann"))
    desk.ask(m.ControlRequest("j", "pause", "bob"))
    assert go_back(desk, index).paused == "by bob"


def test_new_lineage_is_kept_at_once_and_a_shard_behind_it_is_not_sent_to_its_beginning() -> None:
    desk = desk_of().start()
    index = keep(desk, 0)
    step(desk, 0)
    desk.ask(m.RewindRequest("r", "j", 0, (), "ann"))
    books = go_back(desk, index)
    again = made_of(books)
    for shard in again.shards:
        again.connect(shard)
        again.opened(shard, 0)
    assert saves(again) == [0], "what is restored elsewhere is this history, not the one that was left"
    again.attach("a")
    step(again, 0)
    again.tell(e.ShardDown(1))
    again.connect(1)
    opened = [f.command for f in found(again, e.ToShard) if isinstance(f.command, m.OpenJob)]
    assert opened[-1].restore is None


def test_save_whose_words_may_have_gone_with_a_link_is_not_waited_for() -> None:
    """The link was replaced, and nobody told that the one before was down."""
    desk = desk_of().start()
    desk.ask(m.CheckpointRequest("j", "ann"))
    caller = desk._callers
    desk.connect(1, is_resumed=True)
    with pytest.raises(CheckpointFailed, match="the link to shard 1 is down"):
        desk.answer_of(caller)
