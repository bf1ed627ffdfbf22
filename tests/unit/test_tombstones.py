"""Deleted jobs: what the coordinator's process keeps of them, and does not keep."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_fleet import create, hello

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.quotas import Quotas
from sheepfold_server.shell import tombstones
from sheepfold_server.shell.data_dir import DataDir
from sheepfold_server.shell.fleet import Fleet
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.tombstones import TOMBSTONES
from sheepfold_wire.errors import JobDeleted, JobUnknown, PreconditionError
from sheepfold_wire.manifest import Manifest, TensorSpec

MODEL = Manifest((TensorSpec("w", (3,), "float32", "parameter"),)).to_json()


def fleet_in(path: Path, **other: Any) -> Fleet:
    """As a process begins, after the one before it was killed: its lock went with it."""
    directory = DataDir(path)
    path.mkdir(exist_ok=True)
    return Fleet(2, directory, **other)


def stopped(fleet: Fleet, name: str = "small", manifest: str = "") -> None:
    create(fleet, name, manifest)
    fleet.call(m.ControlRequest(name, "stop", "ann")).result(1)


def delete(fleet: Fleet, name: str = "small", request_id: str = "r") -> m.DeleteJobReply:
    reply = fleet.call(m.DeleteJobRequest(request_id, name, "ann")).result(1)
    assert isinstance(reply, m.DeleteJobReply)
    return reply


def linked(fleet: Fleet, shard: int) -> tuple[list[Any], Any]:
    """What the shard hears, and its link."""
    heard: list[Any] = []

    def send(command: m.ShardCommand) -> None:
        heard.append(command)

    fleet.link_up(hello(shard), send)
    return heard, send


def removals(heard: list[Any]) -> list[m.RemoveJob]:
    return [command for command in heard if isinstance(command, m.RemoveJob)]


def lines(path: Path) -> list[str]:
    return (path / TOMBSTONES).read_text().splitlines()


@pytest.mark.parametrize("has_directory", [True, False])
def test_deleted_job_is_gone_whoever_calls_is_told_by_whom_and_its_name_is_free(
    tmp_path: Path, has_directory: bool
) -> None:
    fleet = fleet_in(tmp_path) if has_directory else Fleet(2)
    stopped(fleet)
    create(fleet, "other")
    assert delete(fleet) == m.DeleteJobReply(-1, -1, "", (0, 1))
    assert fleet.jobs() == ("other",)
    assert not (tmp_path / "jobs" / "small").exists()
    told = r"job small was deleted by ann on .* UTC; nothing of it is kept"
    with pytest.raises(JobDeleted, match=told):
        fleet.status("small")
    with pytest.raises(JobDeleted, match=told):
        fleet.call(m.LeaseRequest("small", "w"))
    assert create(fleet) == m.CreateJobReply("small", True)
    assert fleet.status("small").state == "declared"


def test_unknown_name_is_no_deleted_one() -> None:
    fleet = Fleet(2)
    stopped(fleet)
    with pytest.raises(JobUnknown, match=r"no job named 'smal' here \(known: small\)") as refused:
        delete(fleet, "smal")
    assert not isinstance(refused.value, JobDeleted)
    assert fleet.jobs() == ("small",)


def test_same_call_again_is_answered_as_before_also_after_a_restart_and_deletes_nothing_new(
    tmp_path: Path,
) -> None:
    fleet = fleet_in(tmp_path)
    stopped(fleet)
    answer = delete(fleet)
    assert delete(fleet) == answer
    with pytest.raises(JobDeleted):
        delete(fleet, request_id="another")
    again = fleet_in(tmp_path)
    assert again.jobs() == ()
    assert delete(again) == answer
    create(again)
    assert delete(again) == answer, "it is about the job that had the name then"
    assert again.jobs() == ("small",)
    with pytest.raises(PreconditionError, match="has not ended"):
        delete(again, request_id="another")


def test_call_without_an_id_is_not_remembered() -> None:
    fleet = Fleet(2)
    stopped(fleet)
    delete(fleet, request_id="")
    with pytest.raises(JobDeleted):
        delete(fleet, request_id="")


def test_job_under_a_name_that_was_deleted_has_another_lineage_and_a_later_term(tmp_path: Path) -> None:
    """Attempts are numbered from 1 in each term: with the same term a late push would be another's."""
    for fleet in (Fleet(2), fleet_in(tmp_path)):
        stopped(fleet)
        before = fleet.status("small")
        delete(fleet)
        create(fleet)
        assert fleet.status("small").term > before.term
        assert fleet.status("small").lineage != before.lineage


def test_quota_of_jobs_has_room_after_a_deletion() -> None:
    fleet = Fleet(2)
    quota = Quotas().jobs
    for number in range(quota):
        create(fleet, f"job-{number}")
    with pytest.raises(PreconditionError, match=f"{quota} jobs exist already.*`sheepfold job delete`"):
        create(fleet, "one-more")
    fleet.call(m.ControlRequest("job-7", "stop", "ann")).result(1)
    delete(fleet, "job-7")
    assert create(fleet, "one-more").is_new


# --- shards ---------------------------------------------------------------------------------------------


def test_shards_are_told_at_once_or_when_they_link_until_all_have_answered(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path)
    here, send = linked(fleet, 0)
    stopped(fleet)
    lineage = fleet.status("small").lineage
    assert delete(fleet).shards_away == (1,)
    due = m.RemoveJob("small", fleet.term, (lineage,))
    assert removals(here) == [due]
    fleet.report(0, m.JobRemoved("small", lineage), send)

    again = fleet_in(tmp_path)
    for shard in (0, 1):
        heard, send = linked(again, shard)
        assert [type(command) for command in heard] == [m.Welcome, m.RemoveJob]
        assert removals(heard) == [replace(due, term=again.term)], "who had answered may be asked again"
        again.report(shard, m.JobRemoved("small", lineage), send)
    assert '"is_removed":true' in lines(tmp_path)[0]
    assert removals(linked(fleet_in(tmp_path), 0)[0]) == []


def test_answer_of_a_replaced_link_or_about_another_lineage_counts_for_nothing(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path)
    links = [linked(fleet, shard) for shard in (0, 1)]
    stopped(fleet)
    lineage = fleet.status("small").lineage
    delete(fleet)
    for shard, (_, send) in enumerate(links):
        fleet.report(shard, m.JobRemoved("small", "another"), send)
        fleet.report(shard, m.JobRemoved("small", lineage), lambda command: None)
    assert '"is_removed":false' in lines(tmp_path)[0]


def test_late_report_about_the_deleted_job_does_not_reach_the_one_that_has_its_name() -> None:
    fleet = Fleet(2)
    links = [linked(fleet, shard) for shard in (0, 1)]
    stopped(fleet, manifest=MODEL)
    old = links[0][0][-1].term
    delete(fleet)
    create(fleet, manifest=MODEL)
    for shard, (_, send) in enumerate(links):
        fleet.report(shard, m.JobOpened("small", 8, 3, old), send)
        fleet.report(shard, m.Applied("small", 3, ()), send)
    status = fleet.status("small")
    assert (status.version, status.state) == (-1, "opening")


# --- what can go wrong ----------------------------------------------------------------------------------


def test_disk_that_is_full_leaves_the_job_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = fleet_in(tmp_path)
    stopped(fleet)

    def full(file: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tombstones, "write_whole", full)
        with pytest.raises(PreconditionError, match=r"job small is not deleted.*No space left"):
            delete(fleet)
    assert fleet.status("small").state == "ended"
    assert (tmp_path / "jobs" / "small").exists()
    assert delete(fleet).version == -1


def test_what_a_killed_process_did_not_remove_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_in(tmp_path)
    stopped(fleet)
    create(fleet, "other")
    with monkeypatch.context() as patch:
        patch.setattr(Fleet, "_bury", lambda *_: None)
        delete(fleet)
    assert (tmp_path / "jobs" / "small").exists()
    (tmp_path / "deleted" / "lineage").mkdir(parents=True)
    (tmp_path / "deleted" / "lineage" / "half.log").write_text("")
    again = fleet_in(tmp_path)
    assert again.jobs() == ("other",)
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["other"]
    assert not (tmp_path / "deleted" / "lineage").exists()
    assert create(again).is_new


def test_name_is_not_free_while_the_log_of_the_deleted_job_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appended to it, the new job would be the old one after a restart."""
    fleet = fleet_in(tmp_path)
    stopped(fleet)

    def stuck(self: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stuck)
        delete(fleet)
    with pytest.raises(PreconditionError, match="holds the log of a deleted job"):
        create(fleet)
    assert fleet.jobs() == ()


def test_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    """Without it a job whose logs are half removed would be taken up."""
    for text in ("{", "5\n", '["Tombstone",{"job":"j"}]\n', '["Other",{}]\n'):
        (tmp_path / TOMBSTONES).write_text(text)
        with pytest.raises(StartError, match=r"deleted\.jsonl is not as it was written"):
            fleet_in(tmp_path)


def test_only_the_newest_that_nothing_is_left_of_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tombstones, "REMOVED_KEPT", 2)
    fleet = fleet_in(tmp_path)
    links = [linked(fleet, shard) for shard in (0, 1)]
    for name in ("a", "b", "waits", "c", "d"):
        stopped(fleet, name)
        lineage = fleet.status(name).lineage
        delete(fleet, name)
        for shard, (_, send) in enumerate(links[: 1 if name == "waits" else 2]):
            fleet.report(shard, m.JobRemoved(name, lineage), send)
    assert [line.split('"job":"')[1].split('"')[0] for line in lines(tmp_path)] == ["waits", "c", "d"]
    with pytest.raises(JobUnknown, match="no job named 'a'"):
        fleet.status("a")
    with pytest.raises(JobDeleted):
        fleet.status("waits")


def test_jobs_that_a_shard_which_is_away_has_not_heard_of_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tombstones, "PENDING_MAX", 1)
    fleet = fleet_in(tmp_path)
    for name in ("a", "b"):
        stopped(fleet, name)
    delete(fleet, "a")
    with pytest.raises(PreconditionError, match=r"job b is not deleted.*not removed on shards \[0, 1\]"):
        delete(fleet, "b")
    assert fleet.status("b").state == "ended"


def test_kept_checkpoint_is_named_with_the_command_that_takes_it_up() -> None:
    stone = tombstones.Tombstone("small", ("l",), "r", "ann", 0.0, m.DeleteJobReply(40, 36, "s3://kept", ()))
    assert str(stone.error()) == (
        "job small was deleted by ann on 1970-01-01 00:00:00 UTC; version 36 is kept in s3://kept: "
        "`sheepfold checkpoint restore small` takes it up"
    )


def test_caller_that_waits_or_comes_late_is_told_that_the_job_is_deleted() -> None:
    fleet = Fleet(2)
    for shard in (0, 1):
        linked(fleet, shard)
    create(fleet, manifest=MODEL)
    fleet.call(m.AttachRequest("small", "w", "host", 1, MODEL)).result(1)
    held = fleet.call(m.HeartbeatRequest("small", "w", wait_seconds=60.0))
    fleet.call(m.ControlRequest("small", "stop", "ann")).result(1)
    actor = fleet.job("small")
    assert not held.done()
    delete(fleet)
    with pytest.raises(JobDeleted):
        held.result(0)
    with pytest.raises(JobDeleted):
        actor.call(m.ControlRequest("small", "resume", "bob"))
    fleet.tick()
    actor.submit(e.ShardDown(0))
