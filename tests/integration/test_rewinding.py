"""Back to versions that no checkpoint holds, and that the logs of a running job still lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.harness import RunningFold, digest_of, running_fold, small_job, train, until

import sheepfold_wire.messages as m
from sheepfold_server.storage.checkpoints import CheckpointStore
from sheepfold_wire.control import Control
from sheepfold_wire.errors import NoCheckpoint
from sheepfold_wire.job import Job

STEPS = 12
NAME = "back"
BATCH = {"samples": 32, "slot_samples": 4}
KINDS: dict[str, dict[str, Any]] = {
    "synchronous": {"batch": BATCH},
    "delay 1": {"batch": {**BATCH, "delay": 1}},
    "split slices": {"batch": BATCH, "placement": {"split_above_bytes": 4096}},
}


def job_of(**changes: Any) -> Job:
    rule = {"every_steps": 10, "every_minutes": 0}
    return small_job(NAME, **{"stop": {"steps": STEPS + 2}, "checkpoint": rule, **changes})


def train_up_to(fold: RunningFold, job: Job, *versions: int) -> dict[int, str]:
    """From one of these versions to the next, standing still at each: its digest."""
    found: dict[int, str] = {}
    for version in versions:
        train(fold.address, job, until_step=version)
        until(lambda due=version: fold.fleet.status(NAME).version >= due, f"version {version}")  # type: ignore[misc]
        assert fold.fleet.status(NAME).version == version
        found[version] = digest_of(fold.address, NAME)
    return found


def rewind(fold: RunningFold, version: int, request_id: str = "r") -> str:
    """The digest of the version that the job is at then."""
    with Control(fold.connection, 60.0) as control:
        reply = control.rewind(m.RewindRequest(request_id, NAME, version, (), "ann"))
    assert reply.version == version
    until(lambda: fold.fleet.status(NAME).lineage == reply.lineage, "the new lineage")
    until(lambda: fold.fleet.status(NAME).state == "running", "all shards have opened it")
    assert fold.fleet.status(NAME).version == version
    return digest_of(fold.address, NAME)


def change(fold: RunningFold, version: int, changes_json: str) -> None:
    with Control(fold.connection, 60.0) as control:
        control.change(m.ConfigChangeRequest(str(version), NAME, version, changes_json, "ann"))


def kept_of(url: Path) -> list[int]:
    return [index.version for index in CheckpointStore(str(url), NAME).listing().indices]


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_version_between_checkpoints_comes_back_and_so_do_those_after_it(
    tmp_path: Path, kind: str, shards: int
) -> None:
    job = job_of(**KINDS[kind])
    with running_fold(shards, directory=tmp_path / "logs", checkpoints=tmp_path / "kept") as fold:
        first = train_up_to(fold, job, 7, 9, 12)
        until(lambda: fold.fleet.status(NAME).checkpoint_version == 10, "version 10 is kept")
        assert rewind(fold, 7) == first[7]
        assert fold.fleet.status(NAME).samples_committed == 7 * 32
        assert train_up_to(fold, job, 9, 12) == {9: first[9], 12: first[12]}


def test_version_0_comes_back_from_the_initial_weights_in_the_logs(tmp_path: Path) -> None:
    job = job_of(checkpoint={"every_steps": 2, "every_minutes": 0, "keep": 2})
    with running_fold(2, directory=tmp_path / "logs", checkpoints=tmp_path / "kept") as fold:
        first = train_up_to(fold, job, 0, 2, 4, 5)
        until(lambda: kept_of(tmp_path / "kept") == [4, 2], "version 0 is kept no longer")
        assert rewind(fold, 0) == first[0]
        assert train_up_to(fold, job, 5)[5] == first[5]


def test_configuration_stays_and_learning_rates_before_it_are_those_that_were_used(tmp_path: Path) -> None:
    job = job_of()
    with running_fold(2, directory=tmp_path / "logs", checkpoints=tmp_path / "kept") as fold:
        first = train_up_to(fold, job, 3)
        change(fold, 4, '{"optimizer.lr.peak": 0.07, "optimizer.clip_norm": 0.5}')
        first |= train_up_to(fold, job, 4, 6, 8)
        change(fold, 8, '{"optimizer.lr.peak": 0.01}')
        first |= train_up_to(fold, job, 9)
        assert rewind(fold, 6, "to 6") == first[6]
        assert train_up_to(fold, job, 8, 9) == {8: first[8], 9: first[9]}


def test_what_the_logs_do_not_lead_to_is_refused_with_what_they_do_and_the_job_goes_on(
    tmp_path: Path,
) -> None:
    job = job_of()
    with running_fold(2, directory=tmp_path / "logs", checkpoints=tmp_path / "kept") as fold:
        first = train_up_to(fold, job, 5, 7)
        assert rewind(fold, 5, "to 5") == first[5]
        before = fold.fleet.status(NAME).lineage
        told = (
            r"version 3 .* kept are versions .*; the log of the coordinator leads to version 5 and later ones"
        )
        with pytest.raises(NoCheckpoint, match=told):
            rewind(fold, 3, "to 3")
        assert fold.fleet.status(NAME).lineage == before
        assert train_up_to(fold, job, 7)[7] == first[7]


def test_where_no_mean_gradients_are_logged_only_checkpoints_are_gone_back_to(tmp_path: Path) -> None:
    job = job_of(durability={"level": "checkpoint"})
    with running_fold(1, directory=tmp_path / "logs", checkpoints=tmp_path / "kept") as fold:
        train_up_to(fold, job, 3)
        with pytest.raises(NoCheckpoint, match=r"version 2 .* kept are versions 0$"):
            rewind(fold, 2)
