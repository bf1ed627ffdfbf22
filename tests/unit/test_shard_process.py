"""The jobs of a shard process: opened beside its link, which may break meanwhile."""

from __future__ import annotations

import queue
import shutil
import threading
import weakref
from pathlib import Path
from typing import Self

import pytest

import sheepfold_wire.messages as m
from sheepfold_server.shell.shard_process import ShardConfig, ShardProcess
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import JobDeleted, JobUnknown, NotReady
from sheepfold_wire.job import parse_job
from sheepfold_wire.manifest import Manifest, TensorSpec

MANIFEST = Manifest((TensorSpec("w", (4, 4), "float32", "parameter"),))
JOB = parse_job(
    {
        "name": "j",
        "batch": {"samples": 4, "slot_samples": 4},
        "data": {"samples": 100},
        "optimizer": {"lr": {"peak": 0.1, "schedule": "constant"}},
        "stop": {"steps": 1},
    }
)


def opening(term: int, lineage: str = "lineage") -> m.OpenJob:
    return m.OpenJob("j", lineage, term, 1, MANIFEST.to_json(), JOB.to_json())


class Process:
    """A shard process on a desk: what it says is at hand."""

    def __init__(self, directory: Path | None = None) -> None:
        self.said: queue.SimpleQueue[m.ShardReport] = queue.SimpleQueue()
        config = ShardConfig(0, 1, directory=directory)
        self.process = ShardProcess(config, self.said.put, lambda why: None)
        self.process.command(m.Welcome(1, 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.close()

    def tell(self, *commands: m.ShardCommand) -> list[m.ShardReport]:
        """What is said once all of it is done."""
        for command in commands:
            self.process.command(command)
        for opener in self.process._openers:
            opener.join()
        return [self.said.get_nowait() for _ in range(self.said.qsize())]

    def hold_kernel(self) -> threading.Event:
        """The first opener waits until it is set, the others for the first."""
        is_free = threading.Event()
        self.process._kernel.submit(is_free.wait)
        return is_free


def logs_in(directory: Path) -> list[str]:
    """Lineages of the job."""
    return sorted(path.name for path in (directory / "jobs").glob("j/*"))


REMOVE = m.RemoveJob("j", 2, ("lineage",))


def test_opening_that_a_broken_link_asked_for_is_not_answered() -> None:
    """Answered after that of the next link, it would drop parts of leases that were given out since."""
    said: queue.SimpleQueue[m.ShardReport] = queue.SimpleQueue()
    process = ShardProcess(ShardConfig(0, 1), said.put, lambda why: None)
    is_free = threading.Event()
    process._kernel.submit(is_free.wait)  # the first opener waits for it, the others for the first
    try:
        for term in (1, 1, 2):
            process.command(opening(term))
        is_free.set()
        for opener in process._openers:
            opener.join()
        opened = [said.get_nowait()]
        while not said.empty():
            opened.append(said.get_nowait())
    finally:
        is_free.set()
        process.close()
    assert [report.term for report in opened if isinstance(report, m.JobOpened)] == [2]


def test_deleted_job_leaves_neither_memory_nor_logs_and_that_is_said(tmp_path: Path) -> None:
    with Process(tmp_path) as shard:
        shard.tell(opening(1))
        actor = shard.process.actor("j")
        held, tensors = actor.pull(0, Codec.FP32)[1], weakref.ref(actor.tensors)
        del actor
        assert logs_in(tmp_path) == ["lineage"]
        assert shard.tell(REMOVE) == [m.JobRemoved("j", "lineage")]
        with pytest.raises(JobDeleted, match="job j was deleted"):
            held.result(0)
        del held
        assert tensors() is None
        assert shard.process._actors == {}
        assert shard.process._newest == {}
        assert list((tmp_path / "jobs").iterdir()) == []
        shard.process._young_until = 0.0
        with pytest.raises(JobUnknown):
            shard.process.actor("j")
        assert shard.tell(REMOVE) == [m.JobRemoved("j", "lineage")], "it may have been said in vain"


def test_job_in_another_lineage_is_not_the_deleted_one(tmp_path: Path) -> None:
    """The name was given again while this shard was away."""
    (tmp_path / "jobs" / "j" / "lineage").mkdir(parents=True)
    (tmp_path / "jobs" / "other" / "lineage").mkdir(parents=True)
    with Process(tmp_path) as shard:
        shard.tell(opening(2, "another"))
        assert shard.tell(REMOVE) == [m.JobRemoved("j", "lineage")]
        assert shard.process.actor("j").job.lineage == "another"
        assert logs_in(tmp_path) == ["another"]
        assert (tmp_path / "jobs" / "other" / "lineage").exists()


@pytest.mark.parametrize(
    "command",
    [
        m.RemoveJob("j", 1, ("lineage",)),
        m.RemoveJob("..", 2, ("jobs",)),
        m.RemoveJob("j", 2, ("..", ".", "", "*")),
    ],
    ids=["of an earlier term", "no name of a job", "no lineage"],
)
def test_nothing_else_is_removed(tmp_path: Path, command: m.RemoveJob) -> None:
    with Process(tmp_path) as shard:
        shard.tell(m.Welcome(2, 1), opening(2))
        shard.tell(command)
        assert shard.process.actor("j").job.lineage == "lineage"
        assert logs_in(tmp_path) == ["lineage"]


def test_shard_removes_nothing_because_its_coordinator_does_not_know_a_job(tmp_path: Path) -> None:
    with Process(tmp_path) as shard:
        shard.tell(opening(1))
    with Process(tmp_path) as shard:
        shard.tell(m.Welcome(9, 9))
        assert logs_in(tmp_path) == ["lineage"]


def test_job_that_was_deleted_while_it_waited_to_be_opened_is_not_opened(tmp_path: Path) -> None:
    with Process(tmp_path) as shard:
        is_free = shard.hold_kernel()
        for command in (opening(1, "before"), opening(1), m.RemoveJob("j", 2, ("lineage", "before"))):
            shard.process.command(command)
        is_free.set()
        said = shard.tell()
        assert m.JobRemoved("j", "lineage") in said
        assert not any(isinstance(report, m.JobOpened) for report in said)
        with pytest.raises(NotReady):
            shard.process.actor("j")
        assert logs_in(tmp_path) == []


def test_job_that_was_deleted_while_it_was_opened_is_closed_again(tmp_path: Path) -> None:
    with Process(tmp_path) as shard:
        is_free = shard.hold_kernel()
        shard.process.command(opening(1))
        shard.process.command(REMOVE)
        is_free.set()
        assert shard.tell() == [m.JobRemoved("j", "lineage")]
        assert shard.process._actors == {}
        assert logs_in(tmp_path) == []


def test_removal_that_fails_is_not_said_to_be_done_and_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(path: Path) -> None:
        raise OSError("busy")

    with Process(tmp_path) as shard:
        shard.tell(opening(1))
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", stuck)
            assert shard.tell(REMOVE) == []
        assert logs_in(tmp_path) == ["lineage"]
        assert shard.tell(REMOVE) == [m.JobRemoved("j", "lineage")]
        assert logs_in(tmp_path) == []


def test_failure_to_open_a_deleted_job_is_not_told_of_the_one_that_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "j").mkdir(parents=True)
    (tmp_path / "jobs" / "j" / "lineage").write_text("in the way")
    with Process(tmp_path) as shard:
        assert [type(report) for report in shard.tell(opening(1))] == [m.ShardFailed]
        is_free = shard.hold_kernel()
        shard.process.command(opening(1))
        shard.process.command(REMOVE)
        is_free.set()
        assert shard.tell() == []
