"""A job is deleted while others are there: what goes, what stays, and who is told."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.harness import (
    RunningFold,
    SmallNet,
    digest_of,
    running_fold,
    slot_loss,
    small_data,
    small_job,
    train,
    until,
)
from typer.testing import CliRunner

import sheepfold
import sheepfold_wire.messages as m
from sheepfold import Refused
from sheepfold_server.cli.app import app
from sheepfold_server.dashboard.follower import Follower
from sheepfold_server.dashboard.store import Store
from sheepfold_server.shell.shard_process import ShardProcess
from sheepfold_wire.control import Control
from sheepfold_wire.errors import JobDeleted, PreconditionError

NAME = "small"
OTHER = small_job("other", seed=12)


def lab(directory: Path) -> dict[str, Path]:
    return {"directory": directory / "logs", "checkpoints": directory / "kept"}


def sheepfold_job(fold: RunningFold, *words: str, typed: str | None = None) -> Any:
    environment = {"SHEEPFOLD": fold.connection.secret, "COLUMNS": "200", "TERM": "dumb"}
    return CliRunner().invoke(app, ["job", *words], input=typed, env=environment)


def delete(fold: RunningFold, request_id: str = "r", **other: Any) -> m.DeleteJobReply:
    with Control(fold.connection, 60.0) as control:
        return control.delete(m.DeleteJobRequest(request_id, NAME, "ann", **other))


def until_kept(fold: RunningFold, job: str = NAME) -> None:
    """The job has ended, and its newest version is in a checkpoint."""
    until(lambda: fold.fleet.status(job).state == "ended", "the end of the job")
    until(lambda: fold.fleet.status(job).checkpoint_version == 4, "a checkpoint of its newest version")


def logs_of(directory: Path, job: str) -> list[Path]:
    return [path for path in (directory / "logs").glob(f"*/jobs/{job}") if path.exists()]


def open_jobs(fold: RunningFold) -> list[list[str]]:
    return [sorted(shard.process._actors) for shard in fold.shards]


def test_deleted_job_is_gone_for_good_its_name_is_free_and_others_are_as_they_were(tmp_path: Path) -> None:
    with running_fold(2, **lab(tmp_path)) as fold:
        for job in (small_job(), OTHER):
            train(fold.address, job)
            until_kept(fold, job.name)
        lineage, digest = fold.fleet.status(NAME).lineage, digest_of(fold.address, NAME)
        other = digest_of(fold.address, OTHER.name)
        reply = delete(fold)
        assert reply == m.DeleteJobReply(4, 4, str(tmp_path / "kept"), ())
        until(lambda: open_jobs(fold) == [["other"], ["other"]], "shards have closed it")
        until(lambda: logs_of(tmp_path, NAME) == [], "its logs are removed")
    with running_fold(2, **lab(tmp_path)) as fold:
        until(lambda: fold.fleet.status(OTHER.name).state == "ended", "the other job is open again")
        assert fold.fleet.jobs() == ("other",)
        assert digest_of(fold.address, OTHER.name) == other
        assert open_jobs(fold) == [["other"], ["other"]]
        assert delete(fold) == reply, "the same call"
        with pytest.raises(Refused, match=r"job small was deleted by ann .*restore small.*JOB_DELETED"):
            sheepfold.attach(SmallNet(), job=NAME, address=fold.address)

        train(fold.address, small_job(seed=77))
        assert fold.fleet.status(NAME).lineage != lineage
        assert digest_of(fold.address, NAME) == digest, "the seed is for dropout alone"
        assert delete(fold) == reply
        assert fold.fleet.status(NAME).version == 4
        until_kept(fold)
        kept = sorted(path.name for path in (tmp_path / "kept" / NAME).iterdir())
        assert kept == sorted([lineage, fold.fleet.status(NAME).lineage]), "of the deleted job, too"
    with running_fold(2, **lab(tmp_path)) as fold:
        until(lambda: fold.fleet.status(NAME).version == 4, "the new job is taken up")
        assert digest_of(fold.address, NAME) == digest


def test_deleted_job_comes_back_from_its_checkpoint(tmp_path: Path) -> None:
    with running_fold(2, **lab(tmp_path)) as fold:
        train(fold.address, small_job())
        until_kept(fold)
        digest = digest_of(fold.address, NAME)
        delete(fold)
        with Control(fold.connection, 60.0) as control:
            assert control.restore(m.RestoreRequest("back", NAME)).version == 4
        until(lambda: fold.fleet.status(NAME).state == "ended", "it is open again")
        assert digest_of(fold.address, NAME) == digest
    with running_fold(2, **lab(tmp_path)) as fold:
        until(lambda: fold.fleet.status(NAME).version == 4, "it is taken up")
        assert digest_of(fold.address, NAME) == digest


def test_shard_that_was_away_removes_the_job_when_it_links_and_not_the_one_that_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # shards do not hear of it
        patch.setattr(ShardProcess, "_on_remove", lambda *_: None)
        with running_fold(2, **lab(tmp_path)) as fold:
            train(fold.address, small_job())
            until_kept(fold)
            old = fold.fleet.status(NAME).lineage
            delete(fold)
        assert len(logs_of(tmp_path, NAME)) == 2
        with running_fold(2, **lab(tmp_path)) as fold:
            train(fold.address, small_job())
            digest = digest_of(fold.address, NAME)
            assert len(list((tmp_path / "logs" / "shard-1" / "jobs" / NAME).iterdir())) == 2
    with running_fold(2, **lab(tmp_path)) as fold:
        folders = [tmp_path / "logs" / f"shard-{shard}" / "jobs" / NAME for shard in (0, 1)]
        until(lambda: not any((folder / old).exists() for folder in folders), "the old lineage is removed")
        until(lambda: fold.fleet.status(NAME).version == 4, "the new one is there")
        assert digest_of(fold.address, NAME) == digest


def test_other_coordinator_that_does_not_know_a_job_makes_no_shard_remove_it(tmp_path: Path) -> None:
    with running_fold(2, **lab(tmp_path)) as fold:
        train(fold.address, small_job())
        digest = digest_of(fold.address, NAME)
    (tmp_path / "logs" / "coordinator").rename(tmp_path / "aside")
    with running_fold(2, **lab(tmp_path)) as fold:
        train(fold.address, OTHER)
        assert fold.fleet.jobs() == ("other",)
    assert len(logs_of(tmp_path, NAME)) == 2
    (tmp_path / "logs" / "coordinator").rename(tmp_path / "another")
    (tmp_path / "aside").rename(tmp_path / "logs" / "coordinator")
    with running_fold(2, **lab(tmp_path)) as fold:
        until(lambda: fold.fleet.status(NAME).version == 4, "the job is taken up")
        assert digest_of(fold.address, NAME) == digest


# --- workers --------------------------------------------------------------------------------------------


def test_worker_that_comes_late_is_told_that_its_job_was_deleted_and_ends(tmp_path: Path) -> None:
    job = small_job(stop={"steps": 1000})
    with running_fold(2, **lab(tmp_path)) as fold:
        is_deleted = threading.Event()

        def delete_it(slot: Any) -> None:
            """The worker has a lease and a gradient; meanwhile the job is ended and deleted."""
            if slot.step == 2 and not is_deleted.is_set():
                with Control(fold.connection) as control:
                    control.control(m.ControlRequest(NAME, "stop", "ann"))
                train_rest(fold)
                delete(fold, without_checkpoint=True)
                is_deleted.set()

        with pytest.raises(Refused, match="job small was deleted by ann"):
            train(fold.address, job, delete_it)
        assert is_deleted.is_set()


def train_rest(fold: RunningFold) -> None:
    """Another worker does the slots that are left of the open step; the late one's is leased again."""
    model, (x, y) = SmallNet(), small_data()
    (late,) = fold.fleet.status(NAME).workers
    with sheepfold.attach(model, job=NAME, address=fold.address) as run:
        fold.fleet.call(m.ReleaseRequest(NAME, late.worker, reason="late")).result(5)
        for slot in run.slots():
            slot.backward(slot_loss(model, x[torch.tensor(slot.indices)], y[torch.tensor(slot.indices)]))
            run.step()


@pytest.mark.parametrize(
    ("changes", "is_another"), [({}, False), ({"data": {"samples": 64, "seed": 6}}, True)]
)
def test_worker_of_the_deleted_job_does_no_harm_to_the_one_that_has_its_name(
    tmp_path: Path, changes: dict[str, Any], is_another: bool
) -> None:
    """Its push is refused: the term is another. Then it trains the same job like any other, and no other."""
    job, again = small_job(stop={"steps": 2}), small_job(stop={"steps": 2}, **changes)
    with running_fold(2) as undisturbed:
        train(undisturbed.address, again)
        digest = digest_of(undisturbed.address, NAME)
    with running_fold(2, **lab(tmp_path)) as fold:
        is_done = threading.Event()

        def replace_it(slot: Any) -> None:
            if not is_done.is_set() and slot.step == 0:
                is_done.set()
                with Control(fold.connection, 60.0) as control:
                    control.control(m.ControlRequest(NAME, "stop", "ann"))
                train_rest(fold)
                delete(fold, without_checkpoint=True)
                with Control(fold.connection, 60.0) as control:
                    control.create(m.CreateJobRequest("", again.to_json()))
                # A worker has begun it, and holds the attempt of the same number.
                train(fold.address, again, until_step=0)

        if is_another:
            with pytest.raises(Refused, match=r"job small is another one .*data.seed was 5 and is 6"):
                train(fold.address, job, replace_it)
            train(fold.address, again)
        else:
            train(fold.address, job, replace_it)
        assert digest_of(fold.address, NAME) == digest


# --- the command ----------------------------------------------------------------------------------------


def test_command_asks_for_the_name_again_and_says_what_stays(tmp_path: Path) -> None:
    with running_fold(2, **lab(tmp_path)) as fold:
        train(fold.address, small_job())
        until_kept(fold)
        mistyped = sheepfold_job(fold, "delete", NAME, typed="smal\n")
        assert (mistyped.exit_code, fold.fleet.jobs()) == (2, (NAME,))
        assert "'smal' is not 'small': nothing is deleted" in mistyped.stderr
        silent = sheepfold_job(fold, "delete", NAME)
        assert (silent.exit_code, fold.fleet.jobs()) == (2, (NAME,))
        assert "nothing is deleted; --yes does not ask" in silent.stderr
        deleted = sheepfold_job(fold, "delete", NAME, typed="small\n")
        assert deleted.exit_code == 0, deleted.stderr
        assert (
            f"job small is deleted; version 4 stays in {tmp_path / 'kept'}: `sheepfold checkpoint restore "
            "small` takes it up\n"
        ) in deleted.stdout
        again = sheepfold_job(fold, "delete", NAME, "--yes")
        assert again.exit_code == 2
        assert "job small was deleted by" in again.stderr
        unknown = sheepfold_job(fold, "delete", "smal", "--yes")
        assert unknown.exit_code == 2
        assert "no job named 'smal'" in unknown.stderr


def test_command_refuses_a_job_at_work_and_one_whose_newest_version_is_not_kept(tmp_path: Path) -> None:
    with running_fold(1, directory=tmp_path) as fold:
        train(fold.address, small_job(), until_step=2)
        running = sheepfold_job(fold, "delete", NAME, "--yes", "--without-checkpoint")
        assert (
            "job small has not ended, it is running; end it first: `sheepfold job stop small`"
            in running.stderr
        )
        train(fold.address, small_job())
        refused = sheepfold_job(fold, "delete", NAME, "--yes")
        assert "version 4 of job small, its newest, is in no checkpoint, none are kept here" in refused.stderr
        assert [running.exit_code, refused.exit_code] == [2, 2]
        deleted = sheepfold_job(fold, "delete", NAME, "--yes", "--without-checkpoint")
        assert deleted.exit_code == 0, deleted.stderr
        assert "job small is deleted; nothing of it is kept\n" in deleted.stdout


def test_damaged_checkpoint_is_not_taken_for_one_that_is_kept(tmp_path: Path) -> None:
    with running_fold(2, **lab(tmp_path)) as fold:
        train(fold.address, small_job())
        until_kept(fold)
        part = next((tmp_path / "kept").rglob("4/*.safetensors"))
        part.write_bytes(part.read_bytes()[:-1])
        with pytest.raises(PreconditionError, match=r"checkpoint of its newest version is damaged.*bytes"):
            delete(fold)
        assert fold.fleet.status(NAME).state == "ended"


# --- the dashboard --------------------------------------------------------------------------------------


def test_dashboard_keeps_the_history_of_the_deleted_job_apart_from_that_of_the_next(tmp_path: Path) -> None:
    store = Store()
    with running_fold(2, **lab(tmp_path)) as fold:
        follower = Follower(store, fold.connection)
        follower.start()
        try:
            train(fold.address, small_job())
            until_kept(fold)
            old = fold.fleet.status(NAME).lineage
            until(lambda: store.history.newest_version(NAME, old) == 4, "its steps in the history")
            delete(fold)
            until(lambda: store.find(NAME).state == "not listed", "it is told of from the history")
            assert store.history.newest_version(NAME, old) == 4
            train(fold.address, small_job(stop={"steps": 2}))
            new = fold.fleet.status(NAME).lineage
            until(lambda: store.history.newest_version(NAME, new) == 2, "steps of the next one")
            until(lambda: store.find(NAME).state == "ended", "its status")
            assert store.status(NAME).lineage == new
            until(lambda: not store.lacks_manifest(NAME), "its model")
            assert store.lineage(NAME, old) == old
            assert store.history.newest_version(NAME, old) == 4
        finally:
            follower.close()


def test_deleted_job_in_this_process_is_gone() -> None:
    from sheepfold_server.shell.local import LocalFold, LocalTransport

    fold = LocalFold(2)
    try:
        transport = LocalTransport(fold)
        transport.call(m.CreateJobRequest("", small_job().to_json()))
        transport.call(m.ControlRequest(NAME, "stop", "ann"))
        assert transport.call(m.DeleteJobRequest("r", NAME)) == m.DeleteJobReply(-1, -1)
        with pytest.raises(JobDeleted):
            transport.call(m.StatusRequest(NAME))
    finally:
        fold.close()
