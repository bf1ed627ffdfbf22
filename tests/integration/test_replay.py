"""`sheepfold replay`: the states of a run that is over, computed again from its logs and checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tests.integration.harness import (
    RunningFold,
    digest_of,
    running_fold,
    small_job,
    train,
    train_with,
    until,
    weights_of,
)
from typer.testing import CliRunner

import sheepfold_wire.messages as m
from sheepfold_server.cli.app import app
from sheepfold_server.core.records import PreparedSum, ShardRecord
from sheepfold_server.shell import shard_log
from sheepfold_server.storage.checkpoints import CheckpointIndex
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_server.storage.log.reading import read_heads, read_log
from sheepfold_server.storage.log.records import HEADER_BYTES
from sheepfold_server.storage.log.segment_file import Found
from sheepfold_wire.control import Control
from sheepfold_wire.job import Durability

NAME = "kept"
STEPS = 8
JOB = small_job(NAME, stop={"steps": STEPS}, checkpoint={"every_minutes": 0})


@dataclass(frozen=True)
class Run:
    """One that is over."""

    directory: Path
    digests: dict[int, str]
    """Noted at some versions while it was there."""


class Replayed:
    """What the command printed."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        ran = CliRunner().invoke(app, ["replay", NAME, "--dir", str(directory), *arguments])
        assert ran.exception is None or isinstance(ran.exception, SystemExit), repr(ran.exception)
        self.code, self.output, self.error = ran.exit_code, ran.stdout, ran.stderr

    @property
    def digests(self) -> dict[int, str]:
        assert self.code == 0, self.error
        lines = [line.split() for line in self.output.splitlines() if line.startswith("version ")]
        return {int(version): digest for _, version, digest, *_ in lines}

    @property
    def refusal(self) -> str:
        assert (self.code, self.output) == (2, "")
        return self.error


def train_until(fold: RunningFold, version: int) -> str:
    train(fold.address, JOB, until_step=version)
    until(lambda: fold.fleet.status(NAME).version == version, f"version {version}")
    return digest_of(fold.address, NAME)


def trained(directory: Path, checkpoints: Path | None = None) -> Run:
    """Eight steps of a schedule with a change at step 3, by one worker and then by two; noted on the way."""
    with running_fold(2, directory=directory, checkpoints=checkpoints) as fold:
        noted = {2: train_until(fold, 2)}
        with Control(fold.connection, 60.0) as control:
            changes = json.dumps({"optimizer.lr.peak": 0.005, "frozen": ["out"]})
            control.change(m.ConfigChangeRequest("1", NAME, 3, changes, "test"))
        noted[5] = train_until(fold, 5)
        if checkpoints is not None:
            with Control(fold.connection, 60.0) as control:
                assert control.checkpoint(m.CheckpointRequest(NAME, "test")).version == 5
        train_with(fold.address, JOB, workers=2)
        noted[STEPS] = digest_of(fold.address, NAME)
        if checkpoints is not None:
            until(lambda: fold.fleet.status(NAME).checkpoint_version == STEPS, "the last version is kept")
    return Run(directory, noted)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("logged"))


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("checkpointed")
    return trained(directory, directory / "checkpoints")


@pytest.fixture
def copy(logged: Run, tmp_path: Path) -> Run:
    """To be damaged."""
    shutil.copytree(logged.directory, tmp_path / "copy")
    return Run(tmp_path / "copy", logged.digests)


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    def seen() -> dict[Path, tuple[int, bytes]]:
        files = [path for path in directory.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = seen()
    yield
    assert seen() == before


def log_of(directory: Path, shard: int) -> Path:
    """The folder of a shard's only lineage."""
    (found,) = (directory / f"shard-{shard}" / "jobs" / NAME).iterdir()
    return found


def test_last_version_is_that_of_the_run_and_nothing_is_changed(logged: Run) -> None:
    with unchanged(logged.directory):
        assert Replayed(logged.directory).digests == {STEPS: logged.digests[STEPS]}


def test_versions_between_are_those_of_the_run_when_it_was_there(logged: Run) -> None:
    """The schedule, the change at step 3 and what it froze are those of each step."""
    found = Replayed(logged.directory, "--from", "0").digests
    assert list(found) == list(range(STEPS + 1))
    assert len(set(found.values())) == STEPS + 1
    assert {version: found[version] for version in logged.digests} == logged.digests
    assert Replayed(logged.directory, "--version", "5").digests == {5: logged.digests[5]}
    assert Replayed(logged.directory, "--to", "2").digests == {v: found[v] for v in range(3)}


def test_checkpoints_are_compared_with_the_log_that_leads_to_them(checkpointed: Run) -> None:
    """At a checkpoint the coordinator's log is cut: decisions before it are in the shards' logs alone."""
    with unchanged(checkpointed.directory):
        replayed = Replayed(checkpointed.directory, "--from", "1")
    found, noted = replayed.digests, checkpointed.digests
    assert {version: found[version] for version in noted} == noted
    both = [line.split()[1] for line in replayed.output.splitlines() if line.endswith("log and checkpoint")]
    assert both == ["5", "8"]


def test_checkpoints_alone_give_their_versions(checkpointed: Run) -> None:
    url = ["--url", str(checkpointed.directory / "checkpoints")]
    ran = CliRunner().invoke(app, ["replay", NAME, *url, "--version", "5"])
    assert ran.output.split() == ["version", "5", checkpointed.digests[5], "checkpoint"]
    refused = CliRunner().invoke(app, ["replay", NAME, *url, "--version", "6"])
    assert refused.exit_code == 2
    assert "version 6: not in the logs and checkpoints" in refused.stderr
    assert "versions that are: 0, 5, 8" in refused.stderr


def test_checkpoint_that_is_not_what_the_log_leads_to_fails_the_command(
    checkpointed: Run, tmp_path: Path
) -> None:
    """Of another run of the same model, under this one's lineage."""
    other = trained_otherwise(tmp_path / "other", checkpointed)
    file = tmp_path / "w.safetensors"
    replayed = Replayed(checkpointed.directory, "--url", str(other), "--export", str(file))
    assert replayed.code == 1
    assert f"version {STEPS}: log and checkpoint differ" in replayed.error
    assert len(replayed.output.splitlines()) == 2
    assert not file.exists()


def test_damaged_checkpoint_is_told_and_the_log_still_leads_there(checkpointed: Run, tmp_path: Path) -> None:
    url = tmp_path / "checkpoints"
    shutil.copytree(checkpointed.directory / "checkpoints", url)
    part = next(url.glob(f"{NAME}/*/5/s1of2*"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    replayed = Replayed(checkpointed.directory, "--url", str(url), "--version", "5")
    assert replayed.digests == {5: checkpointed.digests[5]}
    assert part.name in replayed.error
    alone = CliRunner().invoke(app, ["replay", NAME, "--url", str(url), "--version", "5"])
    assert (alone.exit_code, alone.stdout) == (1, "")
    assert "version 5: nothing that holds it is whole" in alone.stderr


def trained_otherwise(url: Path, run: Run) -> Path:
    with running_fold(2, checkpoints=url) as fold:
        train(fold.address, JOB)
        until(lambda: fold.fleet.status(NAME).checkpoint_version == STEPS, "the last version is kept")
        lineage = fold.fleet.status(NAME).lineage
    mine = log_of(run.directory, 0).name
    (url / NAME / lineage).rename(url / NAME / mine)
    for path in (url / NAME / mine).glob("INDEX-*.json"):
        index = CheckpointIndex.from_bytes(path.read_bytes(), f"{NAME}/{lineage}/{path.name}")
        path.write_bytes(index.model_copy(update={"lineage": mine}).to_bytes())
    return url


def test_exported_weights_are_those_of_the_run(logged: Run, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    file = tmp_path / "w.safetensors"
    assert Replayed(logged.directory, "--export", str(file)).code == 0
    with running_fold(2, directory=logged.directory) as fold:
        until(lambda: fold.fleet.status(NAME).version == STEPS, "the job is taken up")
        expected = weights_of(fold.address, NAME)
    found = load_file(file)
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


def test_log_that_was_cut_begins_with_the_state_it_was_cut_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("SEGMENT_BYTES_MIN", 1),
        ("ROOM_FOR_TEXT", 1),
        ("RECORDS_PER_SEGMENT", 1),
        ("STATE_BYTES_MIN", 0),
        ("STATES_PER_SAVE", 0),
    ):
        monkeypatch.setattr(shard_log, name, value)
    run = trained(tmp_path)
    whole = Replayed(tmp_path, "--to", str(STEPS)).digests
    assert 0 < min(whole) <= STEPS - 1
    assert whole[STEPS] == run.digests[STEPS]
    refusal = Replayed(tmp_path, "--version", "0").refusal
    assert f"versions that are: {min(whole)} to {STEPS}" in refusal


def test_job_that_went_back_is_replayed_from_where_its_lineage_began(tmp_path: Path) -> None:
    with running_fold(2, directory=tmp_path, checkpoints=tmp_path / "checkpoints") as fold:
        train_until(fold, 3)
        with Control(fold.connection, 60.0) as control:
            assert control.checkpoint(m.CheckpointRequest(NAME, "test")).version == 3
            train_until(fold, 5)
            control.rewind(m.RewindRequest("1", NAME, 3, (m.SampleRange(3 * 32, 32),), "test"))
        digest = train_until(fold, 6)
    found = Replayed(tmp_path, "--from", "3").digests
    assert list(found) == [3, 4, 5, 6]
    assert found[6] == digest
    assert "versions that are: 3 to 6" in Replayed(tmp_path, "--version", "0").refusal


def test_job_that_logs_no_gradients_gives_its_checkpoints_alone(tmp_path: Path) -> None:
    job = JOB.model_copy(update={"durability": Durability(level="checkpoint")})
    with running_fold(1, directory=tmp_path, checkpoints=tmp_path / "checkpoints") as fold:
        train(fold.address, job)
        until(lambda: fold.fleet.status(NAME).checkpoint_version == STEPS, "the last version is kept")
        digest = digest_of(fold.address, NAME)
    replayed = Replayed(tmp_path)
    assert (replayed.digests, replayed.error) == ({STEPS: digest}, "")


# --- what is committed, and what is not ------------------------------------------------------------------


def append(directory: Path, shard: int, record: ShardRecord, payload: bytes = b"") -> None:
    """As the shard would have, had it lived on."""
    folder = log_of(directory, shard)
    log = RecordLog(folder, read_heads(folder)[0][1].belongs_to, 1)
    list(log.read())
    log.append(shard_log.VALUES.encode(record), [payload])
    log.close()


def records_of(directory: Path, shard: int) -> list[tuple[ShardRecord, Found]]:
    found = read_log(read_heads(log_of(directory, shard)))
    return [(shard_log.VALUES.decode(each.text), each) for each in found]


def cut_notes(directory: Path, shard: int) -> None:
    """The shard died before it noted the newest decision: nothing from that note on was written."""
    newest = [found for record, found in records_of(directory, shard) if isinstance(record, m.Commit)][-1]
    with newest.path.open("r+b") as file:
        at = newest.payload_offset - HEADER_BYTES
        file.seek(at)
        file.write(bytes(newest.path.stat().st_size - at))


def test_decision_that_a_shard_did_not_note_counts(copy: Run) -> None:
    for shard in (0, 1):
        cut_notes(copy.directory, shard)
    assert Replayed(copy.directory).digests == {STEPS: copy.digests[STEPS]}


def test_gradient_without_a_decision_does_not_count(copy: Run) -> None:
    for shard in (0, 1):
        (newest, found) = [
            (record, found)
            for record, found in records_of(copy.directory, shard)
            if isinstance(record, PreparedSum)
        ][-1]
        later = replace(newest.prepared, step=STEPS, map_digest="undecided")
        append(copy.directory, shard, PreparedSum(later, newest.slots), bytes(found.header.payload_bytes))
    assert Replayed(copy.directory).digests == {STEPS: copy.digests[STEPS]}
    assert f"versions that are: 0 to {STEPS}\n" in Replayed(copy.directory, "--version", "9").refusal


def test_shard_that_noted_another_decision_is_refused(copy: Run) -> None:
    notes = [record for record, _ in records_of(copy.directory, 1) if isinstance(record, m.Commit)]
    append(copy.directory, 1, replace(notes[-1], map_digest="another"))
    refusal = Replayed(copy.directory).refusal
    assert f"{log_of(copy.directory, 1)} notes another decision on step {STEPS - 1} (map another)" in refusal


# --- refusals --------------------------------------------------------------------------------------------


def test_directory_in_use_is_refused_with_the_pid_and_stays_usable(tmp_path: Path) -> None:
    with running_fold(2, directory=tmp_path) as fold:
        train_until(fold, 2)
        refusal = Replayed(tmp_path).refusal
        digest = train_until(fold, 3)
    assert f"DATA_DIR_LOCKED: {tmp_path / 'coordinator'} is in use" in refusal
    assert f"pid {os.getpid()}; stop that one, or copy {tmp_path}" in refusal
    assert Replayed(tmp_path).digests == {3: digest}


def test_damaged_record_is_refused_with_file_place_and_remedy(copy: Run) -> None:
    path = min(log_of(copy.directory, 1).glob("*.log"))
    content = bytearray(path.read_bytes())
    content[len(content) // 16] ^= 1
    path.write_bytes(content)
    refusal = Replayed(copy.directory).refusal
    for word in (str(path), "at byte", "expected", "found", "restore the file from a copy"):
        assert word in refusal


def test_logs_of_other_numerics_are_refused_with_both(logged: Run) -> None:
    """A process that may use no vector instructions computes other bits."""
    ran = subprocess.run(
        [sys.executable, "-m", "sheepfold_server", "replay", NAME, "--dir", str(logged.directory)],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2, ran.stderr
    assert f"/torch-{torch.__version__}, here is cpu-default/torch-{torch.__version__}: " in ran.stderr
    assert "the same steps would give other bits" in ran.stderr


def test_shard_without_its_log_is_named(copy: Run) -> None:
    folder = log_of(copy.directory, 1)
    shutil.rmtree(folder)
    replayed = Replayed(copy.directory)
    assert replayed.code == 2
    assert f"version {STEPS} is decided, and shard 1 has no state in {folder}" in replayed.error
    assert "no state of the job is in the logs and checkpoints" in replayed.error


def test_job_that_is_not_there_is_refused_with_those_that_are(logged: Run) -> None:
    ran = CliRunner().invoke(app, ["replay", "other", "--dir", str(logged.directory)])
    assert ran.exit_code == 2
    assert (
        f"no job named 'other' in {logged.directory / 'coordinator' / 'jobs'} (known: {NAME})" in ran.stderr
    )


def test_range_that_contradicts_itself_is_refused(logged: Run) -> None:
    assert "one or the other" in Replayed(logged.directory, "--version", "3", "--to", "4").refusal
    assert "A not above B" in Replayed(logged.directory, "--from", "4", "--to", "3").refusal
