"""Data directories: taken up, refused when they are another's, in use, damaged or full; never read over."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest
from tests.integration.harness import SmallNet, digest_of, running_fold, small_job, train, until

import sheepfold
from sheepfold.contract import contract
from sheepfold_server.shell.data_dir import NUMBERS, DataDir, Numbers
from sheepfold_server.shell.start import StartError

JOB = small_job("kept")


def trained(directory: Path) -> str:
    with running_fold(2, directory=directory) as fold:
        train(fold.address, JOB)
        return digest_of(fold.address, JOB.name)


def log_of(directory: Path, shard: int) -> Path:
    found = sorted((directory / f"shard-{shard}" / "jobs" / JOB.name).glob("*/*.log"))
    return found[0]


def why_paused(directory: Path) -> str:
    """What the job says once the servers are up again."""
    with running_fold(2, directory=directory) as fold:
        until(lambda: fold.fleet.status(JOB.name).state == "paused", "the job is paused")
        return fold.fleet.status(JOB.name).why


def test_job_of_earlier_processes_has_the_same_weights_and_accounts(tmp_path: Path) -> None:
    digest = trained(tmp_path)
    with running_fold(2, directory=tmp_path) as fold:
        until(lambda: fold.fleet.status(JOB.name).version == 4, "version 4")
        assert digest_of(fold.address, JOB.name) == digest
        status = fold.fleet.status(JOB.name)
        assert (status.samples_committed, status.counts.committed) == (128, 32)
        assert fold.fleet.term == 2


def test_worker_is_told_what_is_survived(tmp_path: Path) -> None:
    for directory, level in ((tmp_path, "wal"), (None, "none")):
        with running_fold(2, directory=directory) as fold:
            run = sheepfold.attach(SmallNet(), address=fold.address, config=JOB)
            assert contract(run._worker).count(f"durability: {level}: ") == 1
            run.close()


def test_directory_in_use_is_refused_with_the_pid(tmp_path: Path) -> None:
    with (
        running_fold(1, directory=tmp_path),
        pytest.raises(StartError, match=f"DATA_DIR_LOCKED.*coordinator is in use.*pid {os.getpid()}"),
        running_fold(1, directory=tmp_path),
    ):
        pass


def test_another_number_of_shards_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    trained(tmp_path)
    with (
        pytest.raises(StartError, match=r"job kept .* over 2 shards.*--shards 2"),
        running_fold(3, directory=tmp_path),
    ):
        pass


def test_damaged_record_pauses_the_job_and_names_the_file(tmp_path: Path) -> None:
    trained(tmp_path)
    path = log_of(tmp_path, 1)
    content = bytearray(path.read_bytes())
    content[len(content) // 16] ^= 1
    path.write_bytes(content)
    why = why_paused(tmp_path)
    assert "shard 1: it cannot be opened here" in why
    assert path.name in why
    assert "not as it was written" in why
    assert path.read_bytes() == content, "it is left as it is"


def test_directory_of_another_shard_pauses_the_job_and_names_both(tmp_path: Path) -> None:
    trained(tmp_path)
    for old, new in (("shard-0", "aside"), ("shard-1", "shard-0"), ("aside", "shard-1")):
        (tmp_path / old).rename(tmp_path / new)
    why = why_paused(tmp_path)
    assert "is of shard 1 of 2" in why or "is of shard 0 of 2" in why
    assert "expected is shard" in why


def test_lost_directory_of_a_shard_pauses_the_job(tmp_path: Path) -> None:
    trained(tmp_path)
    for path in (tmp_path / "shard-1").rglob("*.log"):
        path.unlink()
    assert "its state is lost" in why_paused(tmp_path)


def test_full_disk_holds_the_job_up_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(tmp_path / "undisturbed")
    is_full, real, refused = threading.Event(), os.pwrite, threading.Event()

    def pwrite(fd: int, data: memoryview, at: int) -> int:
        if is_full.is_set() and threading.current_thread().name.startswith("kernel"):
            refused.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with running_fold(2, directory=tmp_path / "full") as fold:
        steps: list[object] = []

        def fill_the_disk(slot: object) -> None:
            steps.append(slot)
            if len(steps) == 12:
                is_full.set()

        worker = threading.Thread(target=train, args=(fold.address, JOB, fill_the_disk))
        worker.start()
        until(refused.is_set, "a record that does not fit")
        version = fold.fleet.status(JOB.name).version
        time.sleep(0.3)
        assert fold.fleet.status(JOB.name).version == version
        is_full.clear()
        worker.join(60.0)
        assert digest_of(fold.address, JOB.name) == expected


# --- the numbers that never go back ----------------------------------------------------------------------


def test_numbers_are_read_as_they_were_saved(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / "new")
    directory.take()
    assert directory.numbers() == Numbers()
    directory.save(Numbers(7, {0: 3, 1: 12}))
    directory.release()
    again = DataDir(tmp_path / "new")
    again.take()
    assert again.numbers() == Numbers(7, {0: 3, 1: 12})
    again.release()


BROKEN = ("", "{", "{}", '{"term": "x", "incarnations": {}}', '{"term": 1, "incarnations": []}')


@pytest.mark.parametrize("text", BROKEN)
def test_numbers_that_cannot_be_read_stop_the_start(text: str, tmp_path: Path) -> None:
    """Begun anew, the term would give out attempt numbers a second time."""
    (tmp_path / NUMBERS).write_text(text)
    with pytest.raises(StartError, match="counted twice"):
        DataDir(tmp_path).numbers()


def test_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"cannot be used as data directory .*--dir"):
        DataDir(tmp_path / "file").take()
