"""Checkpoints of a running job: kept, gone back to, restored on other shards; and bad ones."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.integration.harness import (
    RunningFold,
    SmallNet,
    digest_of,
    running_fold,
    small_job,
    train,
    until,
    weights_of,
)
from typer.testing import CliRunner

import sheepfold
import sheepfold_wire.messages as m
from sheepfold_server.cli.app import app
from sheepfold_server.core import events as e
from sheepfold_server.storage.checkpoints import CheckpointStore
from sheepfold_wire.control import Control
from sheepfold_wire.errors import (
    BadConfig,
    CheckpointFailed,
    NoCheckpoint,
    NotReady,
    PreconditionError,
)
from sheepfold_wire.job import Job

STEPS = 12
NAME = "kept"


def job_of(**changes: Any) -> Job:
    """By default version 0, the last one and what a test asks for are kept, whatever the machine's pace."""
    return small_job(NAME, **{"stop": {"steps": STEPS}, "checkpoint": {"every_minutes": 0}, **changes})


DELAYED = {"batch": {"samples": 32, "slot_samples": 4, "delay": 1}}


@cache
def golden(is_delayed: bool = False) -> str:
    """Of the whole job, undisturbed, without checkpoints, on two shards."""
    job = job_of(**(DELAYED if is_delayed else {}))
    with running_fold(2) as fold:
        train(fold.address, job)
        return digest_of(fold.address, NAME)


@contextmanager
def control_of(fold: RunningFold) -> Iterator[Control]:
    with Control(fold.connection, 60.0) as control:
        yield control


def kept_of(url: Path) -> list[int]:
    return [index.version for index in CheckpointStore(str(url), NAME).listing().indices]


def train_and_keep(fold: RunningFold, job: Job, *steps: int) -> None:
    """Up to each of these versions, which is then kept."""
    for version in steps:
        train(fold.address, job, until_step=version)
        until(lambda due=version: fold.fleet.status(NAME).version >= due, f"version {version}")  # type: ignore[misc]
        with control_of(fold) as control:
            assert control.checkpoint(m.CheckpointRequest(NAME, "test")).version == version


def train_to_the_end(fold: RunningFold, job: Job) -> None:
    train(fold.address, job)
    until(lambda: fold.fleet.status(NAME).checkpoint_version == STEPS, "the last version is kept")


def restore(fold: RunningFold, version: int | None = None) -> m.RestoreReply:
    until(lambda: len(fold.fleet._links) == len(fold.shards), "all shards are linked")
    with control_of(fold) as control:
        return control.restore(m.RestoreRequest("again", NAME, version, "test"))


def test_first_and_last_version_are_kept_and_others_as_the_job_says(tmp_path: Path) -> None:
    with running_fold(2, checkpoints=tmp_path) as fold:
        train_to_the_end(fold, job_of(checkpoint={"every_steps": 2}))
        told = [event.text for event in fold.fleet.status(NAME).events if event.kind == "checkpoint"]
        until(lambda: len(kept_of(tmp_path)) == 3, "checkpoint.keep = 3")
    versions = [int(text.split()[1]) for text in told]
    assert (versions[0], versions[-1]) == (0, STEPS)
    assert kept_of(tmp_path) == versions[:-4:-1]
    assert all(b - a >= 2 or b == STEPS for a, b in itertools.pairwise(versions))


def test_checkpoint_holds_the_weights_of_its_version_under_the_models_names(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    with running_fold(2, checkpoints=tmp_path / "kept") as fold:
        train_to_the_end(fold, job_of())
        expected = weights_of(fold.address, NAME)
        file = tmp_path / "weights.safetensors"
        ran = CliRunner().invoke(
            app, ["checkpoint", "export", NAME, "--into", str(file), "--address", fold.address]
        )
    assert ran.exit_code == 0, ran.output
    found = load_file(file)
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("is_delayed", [False, True], ids=["synchronous", "delay 1"])
def test_rewound_job_computes_the_same_bits_again(tmp_path: Path, is_delayed: bool) -> None:
    job = job_of(**(DELAYED if is_delayed else {}))
    with running_fold(2, directory=tmp_path / "logs", checkpoints=tmp_path / "kept") as fold:
        train_and_keep(fold, job, 8)
        train_to_the_end(fold, job)
        before = fold.fleet.status(NAME)
        with control_of(fold) as control:
            request = m.RewindRequest("r", NAME, 8, (), "ann")
            reply = control.rewind(request)
            assert control.rewind(request) == reply, "the same call acts once"
        assert reply.version == 8
        train(fold.address, job)
        after = fold.fleet.status(NAME)
        assert digest_of(fold.address, NAME) == golden(is_delayed)
    assert (before.state, after.state, after.version) == ("ended", "ended", STEPS)
    assert after.lineage == reply.lineage != before.lineage
    assert after.samples_committed == before.samples_committed
    assert any("ann asks for it" in event.text for event in after.events)


def test_samples_skipped_at_a_rewind_are_never_leased(tmp_path: Path) -> None:
    seen: list[int] = []
    with running_fold(1, checkpoints=tmp_path) as fold:
        train_and_keep(fold, job_of(), 8)
        with control_of(fold) as control:
            control.rewind(m.RewindRequest("r", NAME, 8, (m.SampleRange(8 * 32 + 6, 10),), "ann"))
        train(fold.address, job_of(), lambda slot: seen.append(slot.lease.sample_start))
        status = fold.fleet.status(NAME)
    first = 8 * 32
    assert seen[:3] == [first, first + 16, first + 20], (
        "the slot that would reach into the gap begins behind it"
    )
    assert m.SampleRange(first + 6, 10) in status.skipped_samples


@pytest.mark.parametrize("is_delayed", [False, True], ids=["synchronous", "delay 1"])
def test_one_job_over_1_2_3_and_1_shards_has_the_bits_of_an_undisturbed_one(
    tmp_path: Path, is_delayed: bool
) -> None:
    job = job_of(**(DELAYED if is_delayed else {}))
    for shards, until_step in ((1, 3), (2, 6), (3, 9), (1, None)):
        with running_fold(shards, checkpoints=tmp_path) as fold:
            if shards > 1 or until_step is None:
                assert restore(fold).passed_over == ()
            if until_step is not None:
                train_and_keep(fold, job, until_step)
                continue
            train(fold.address, job)
            assert digest_of(fold.address, NAME) == golden(is_delayed)


@pytest.mark.parametrize("is_delayed", [False, True], ids=["synchronous", "delay 1"])
def test_lost_disk_of_a_shard_takes_the_job_back_and_changes_no_bit(tmp_path: Path, is_delayed: bool) -> None:
    job = job_of(**(DELAYED if is_delayed else {}))
    where = {"directory": tmp_path / "logs", "checkpoints": tmp_path / "kept"}
    with running_fold(2, **where) as fold:
        train_and_keep(fold, job, 3)
        train(fold.address, job, until_step=5)
        until(lambda: fold.fleet.status(NAME).version >= 5, "version 5")
        before = fold.fleet.status(NAME)
    shutil.rmtree(tmp_path / "logs" / "shard-1")
    with running_fold(2, **where) as fold:
        until(lambda: fold.fleet.status(NAME).lineage != before.lineage, "another lineage")
        train(fold.address, job)
        status = fold.fleet.status(NAME)
        assert digest_of(fold.address, NAME) == golden(is_delayed)
    told = next(event.text for event in status.events if event.kind == "lineage")
    assert f"from version {before.version} back to version 3: " in told
    assert "its state is lost" in told
    logs = [path.name for path in (tmp_path / "logs" / "shard-0" / "jobs" / NAME).iterdir()]
    assert logs == [status.lineage], "logs of the lineage that ended are removed"


def test_coordinator_started_anew_goes_on_with_the_lineage_it_went_back_to(tmp_path: Path) -> None:
    where = {"directory": tmp_path / "logs", "checkpoints": tmp_path / "kept"}
    with running_fold(2, **where) as fold:
        train_and_keep(fold, job_of(), 4, 6)
        with control_of(fold) as control:
            lineage = control.rewind(m.RewindRequest("r", NAME, 4, (), "ann")).lineage
        train(fold.address, job_of(), until_step=5)
    with running_fold(2, **where) as fold:
        assert fold.fleet.status(NAME).lineage == lineage
        train(fold.address, job_of())
        assert digest_of(fold.address, NAME) == golden()


def test_damaged_newest_checkpoint_is_passed_over_loudly(tmp_path: Path) -> None:
    with running_fold(2, checkpoints=tmp_path) as fold:
        train_and_keep(fold, job_of(), 10)
        train_to_the_end(fold, job_of())
    part = next((tmp_path / NAME).glob(f"*/{STEPS}/s1of2*"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with running_fold(3, checkpoints=tmp_path) as fold:
        reply = restore(fold)
        train(fold.address, job_of())
        assert digest_of(fold.address, NAME) == golden()
    assert reply.version == 10
    assert part.name in reply.passed_over[0]
    assert part.read_bytes() == content, "it is left as it is"


def test_damaged_index_of_a_later_term_leaves_that_of_the_earlier_one(tmp_path: Path) -> None:
    with running_fold(2, checkpoints=tmp_path) as fold:
        train_to_the_end(fold, job_of())
    index = CheckpointStore(str(tmp_path), NAME).listing().indices[0]
    bad = index.files[0].model_copy(update={"sha256": "0" * 64})
    later = index.model_copy(update={"term": index.term + 1, "files": (bad, *index.files[1:])})
    (tmp_path / later.path).write_bytes(later.to_bytes())
    with running_fold(3, checkpoints=tmp_path) as fold:
        reply = restore(fold)
        until(lambda: fold.fleet.status(NAME).state == "ended", "shards have read the one that is whole")
        assert digest_of(fold.address, NAME) == golden()
    assert (reply.version, len(reply.passed_over)) == (STEPS, 1)


def test_index_with_books_of_a_newer_version_is_passed_over(tmp_path: Path) -> None:
    with running_fold(1, checkpoints=tmp_path) as fold:
        train_and_keep(fold, job_of(), 10)
        train_to_the_end(fold, job_of())
        desk = fold.fleet._desk
        assert desk is not None
        index = CheckpointStore(str(tmp_path), NAME).listing().indices[0]
        newer = index.model_copy(update={"ledger": {**index.ledger, "unheard_of": 1}})
        (tmp_path / newer.path).write_bytes(newer.to_bytes())
        found = desk.find(NAME, e.FindCheckpoint(((index.lineage, None),), None))
    assert found.found is not None
    assert found.found.version == 10
    assert "unheard_of" in found.passed_over[0]


def test_job_that_is_here_is_not_restored_and_one_that_is_kept_nowhere_neither(tmp_path: Path) -> None:
    with running_fold(1, checkpoints=tmp_path) as fold:
        with pytest.raises(NoCheckpoint, match=f"no checkpoint of job {NAME} that verifies in {tmp_path}"):
            restore(fold)
        train_and_keep(fold, job_of(), 8, 10)
        train_to_the_end(fold, job_of())
        with pytest.raises(PreconditionError, match=f"sheepfold job rewind {NAME} --to V"):
            restore(fold)
        until(lambda: kept_of(tmp_path) == [12, 10, 8], "the last version is kept, and three in all")
        with (
            control_of(fold) as control,
            pytest.raises(NoCheckpoint, match=r"version 3 .* kept are versions 12, 10, 8"),
        ):
            control.rewind(m.RewindRequest("r", NAME, 3, (), "ann"))
        assert fold.fleet.status(NAME).state == "ended", "a rewind that cannot be leaves the job as it is"


def test_checkpoint_of_other_numerics_is_refused_unless_that_is_accepted(tmp_path: Path) -> None:
    from dataclasses import replace

    from sheepfold_server.shell.restoring import books_of_checkpoint
    from sheepfold_wire.errors import NumericsMismatch

    with running_fold(1, checkpoints=tmp_path) as fold:
        train_to_the_end(fold, job_of())
        hello, desk = fold.fleet._links[0].hello, fold.fleet._desk
    assert desk is not None
    other = replace(hello, numeric_fingerprint="cpu-elsewhere/torch-1")
    asked = m.RestoreRequest("1", NAME, None, "test")
    with pytest.raises(NumericsMismatch, match=r"computes with cpu-elsewhere/torch-1.*--accept-new-numerics"):
        books_of_checkpoint(desk, asked, 1, [other])
    books, _ = books_of_checkpoint(desk, replace(asked, accepts_new_numerics=True), 1, [other])
    assert books.ledger.version == STEPS
    with pytest.raises(NotReady, match="1 of 2 shards are up"):
        books_of_checkpoint(desk, asked, 2, [hello])


def test_without_an_url_a_checkpoint_is_refused_with_the_option_that_gives_one() -> None:
    with running_fold(1) as fold:
        train(fold.address, job_of())
        with control_of(fold) as control, pytest.raises(CheckpointFailed, match="--checkpoints URL"):
            control.checkpoint(m.CheckpointRequest(NAME, "test"))
        level = job_of(durability={"level": "checkpoint"}).model_copy(update={"name": "other"})
        with control_of(fold) as control, pytest.raises(BadConfig, match="start it with --checkpoints URL"):
            control.create(m.CreateJobRequest("1", level.to_json()))


def test_store_that_cannot_be_written_fails_the_checkpoint_and_not_the_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    bad = tmp_path / "file" / "below"
    with running_fold(1, directory=tmp_path / "logs", checkpoints=bad) as fold:
        train(fold.address, job_of())
        with control_of(fold) as control, pytest.raises(CheckpointFailed, match="training goes on"):
            control.checkpoint(m.CheckpointRequest(NAME, "test"))
        assert digest_of(fold.address, NAME) == golden()
        events = [event.text for event in fold.fleet.status(NAME).events if event.kind == "checkpoint"]
    assert events[0].startswith("no checkpoint of version 0: shard 0: ")


def test_without_logs_nothing_is_computed_before_version_0_is_kept(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("no directory")
    with running_fold(1, checkpoints=tmp_path / "kept" / "below") as fold:
        run = sheepfold.attach(SmallNet(), address=fold.address, config=job_of())
        thread = threading.Thread(target=run.next_slot)
        thread.start()
        until(lambda: "version 0 to be kept" in fold.fleet.status(NAME).waiting_for, "it waits")
        with control_of(fold) as control, pytest.raises(CheckpointFailed, match="nothing is computed before"):
            control.checkpoint(m.CheckpointRequest(NAME, "test"))
        (tmp_path / "kept").unlink()
        with control_of(fold) as control:
            assert control.checkpoint(m.CheckpointRequest(NAME, "test")).version == 0
        thread.join(30.0)
        assert not thread.is_alive()
        run.close()


def test_restore_from_the_terminal_waits_for_shards_and_may_find_the_job_here(tmp_path: Path) -> None:
    with running_fold(2, checkpoints=tmp_path) as fold:
        train_and_keep(fold, job_of(), 3)
    with running_fold(3, checkpoints=tmp_path) as fold:
        command = ["checkpoint", "restore", NAME, "--if-absent", "--wait", "30", "-a", fold.address]
        first, second = CliRunner().invoke(app, command), CliRunner().invoke(app, command)
        assert first.exit_code == second.exit_code == 0, first.output
        assert first.output.startswith(f"job {NAME}: goes on from version 3 as lineage ")
        assert second.output == f"job {NAME} is here already\n"


def test_commands_of_the_terminal_say_what_is_kept_and_whether_it_is_whole(tmp_path: Path) -> None:
    with running_fold(2, checkpoints=tmp_path) as fold:
        train_and_keep(fold, job_of(), 2)
        train(fold.address, job_of(), until_step=3)
        until(lambda: fold.fleet.status(NAME).version >= 3, "version 3")
        saved = CliRunner().invoke(app, ["checkpoint", "save", NAME, "-a", fold.address])
        listed = CliRunner().invoke(app, ["checkpoint", "list", NAME, "-a", fold.address])
    assert saved.output == f"job {NAME}: version 3 is kept\n"
    assert [line.split()[1] for line in listed.output.splitlines()] == ["3", "2", "0"]
    url = ["--url", str(tmp_path)]
    whole = CliRunner().invoke(app, ["checkpoint", "verify", NAME, *url])
    assert whole.exit_code == 0
    assert whole.output.count("every file is as its index says") == 3
    part = next((tmp_path / NAME).glob("*/2/s0of2*"))
    part.write_bytes(part.read_bytes()[:-1])
    cut = CliRunner().invoke(app, ["checkpoint", "verify", NAME, *url])
    assert cut.exit_code == 1
    assert part.name in cut.output
    missing = CliRunner().invoke(app, ["checkpoint", "export", NAME, *url, "--version", "7", "--into", "x"])
    assert missing.exit_code == 2
    assert "kept are versions: 3, 2, 0" in missing.output
