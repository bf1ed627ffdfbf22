"""sheepfold_server.storage.checkpoints"""

from __future__ import annotations

import errno
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from safetensors import safe_open
from safetensors.numpy import load_file
from tests.unit.checkpointed import (
    JOB,
    LINEAGE,
    SPLIT_ABOVE,
    Arrays,
    assert_holds,
    assert_same,
    flip,
    index_of,
    part_of,
    plan_of,
    rows_of,
    save,
    temporaries,
)

from sheepfold_server.storage.checkpoints import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointFormatUnknown,
    CheckpointIndex,
    CheckpointIndexUnreadable,
    CheckpointNotStored,
    CheckpointRefused,
    CheckpointStore,
    PartId,
    directory,
)
from sheepfold_server.storage.checkpoints.parts import own_tensors
from sheepfold_server.storage.checkpoints.reshard import row_copies
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.plan import Plan


@pytest.fixture(params=["path", "file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "path": str(tmp_path / "made" / "by" / "it"),
        "file": f"file://{tmp_path}",
        "memory": f"memory://{uuid.uuid4().hex}/checkpoints",
    }[request.param]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path), JOB)


# --- round trip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_count", [1, 3])
def test_what_was_saved_is_what_is_read(url: str, shard_count: int) -> None:
    index = save(CheckpointStore(url, JOB), 7, shard_count)
    other = CheckpointStore(url, JOB)
    assert other.listing().indices == (index,)
    assert_holds(other, other.listing(LINEAGE).indices[0], 7)


def test_a_part_reads_back_equal_with_the_library_of_the_format(
    store: CheckpointStore, tmp_path: Path
) -> None:
    index = save(store)
    for shard in range(2):
        file = tmp_path / index.part_path(shard)
        assert_same(load_file(file), part_of(plan_of(2), shard, 1))
        with safe_open(file, "numpy") as opened:
            assert opened.metadata() == {"job": JOB}


def test_a_file_in_a_directory_is_named_after_its_digest(store: CheckpointStore) -> None:
    part = save(store).files[1]
    assert part.file == f"1/s1of2.i5.{part.sha256[:8]}.safetensors"


def test_an_object_has_a_name_that_no_second_save_shares() -> None:
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}", JOB)
    first, second = save(store), save(store, term=2)
    assert {part.file for part in first.files}.isdisjoint(part.file for part in second.files)
    assert first.files[0].sha256 == second.files[0].sha256


def test_a_shard_without_blocks_has_a_part_too(store: CheckpointStore) -> None:
    manifest = Manifest((TensorSpec("bias", (7,), "float32", "parameter"),))
    plan = Plan.of(manifest, 2, SPLIT_ABOVE)
    parts = [
        {name: array[: plan.rows(s)] for name, array in part_of(plan_of(1), 0).items() if name in rows_of()}
        for s in range(2)
    ]
    for shard, part in enumerate(parts):
        part["applied_steps"] = np.zeros(len(own_tensors(plan, shard)), np.int64)
        part |= {"floats": np.empty(0, np.float32), "integers": np.empty(0, np.int64)}
    files = tuple(store.save_part(PartId(LINEAGE, 1, s, 2, 0), part, {}) for s, part in enumerate(parts))
    index = index_of(
        version=1,
        shard_count=2,
        files=files,
        manifest_json=manifest.to_json(),
        manifest_digest=manifest.digest,
    )
    store.write_index(index)
    store.verify(index)
    assert_same(store.read_part(index, 1, 2), parts[1])


@pytest.mark.slow
def test_own_tensors_are_in_the_order_of_the_shard_layout() -> None:
    from sheepfold_server.optim.layout import ShardLayout

    for count in (1, 2, 3, 5):
        plan = plan_of(count)
        assert [own_tensors(plan, s) for s in range(count)] == [
            ShardLayout(plan, s).tensors for s in range(count)
        ]


# --- another number of shards ----------------------------------------------------------------------------


def test_the_manifest_of_these_tests_has_a_tensor_on_every_shard_and_one_on_a_single_shard() -> None:
    owners = [set(own_tensors(plan_of(3), shard)) for shard in range(3)]
    assert set.intersection(*owners)
    assert set.union(*owners) > set.intersection(*owners)


def test_a_state_that_goes_over_1_2_3_1_shards_is_bit_equal(url: str) -> None:
    store = CheckpointStore(url, JOB)
    index = save(store, 4, 1)
    for version, count in ((5, 2), (6, 3), (7, 1)):
        parts = [store.read_part(index, shard, count) for shard in range(count)]
        for shard, part in enumerate(parts):
            assert_same(part, part_of(plan_of(count), shard, seed=4))
        files = [
            store.save_part(PartId(LINEAGE, version, shard, count, 1), part, {})
            for shard, part in enumerate(parts)
        ]
        index = index_of(version=version, shard_count=count, files=tuple(files))
        store.write_index(index)
        store.verify(index)


@pytest.mark.parametrize("counts", [(1, 4), (4, 1), (2, 5), (5, 3), (3, 3)])
def test_every_used_row_is_copied_once_in_few_ranges(counts: tuple[int, int]) -> None:
    old, new = map(plan_of, counts)
    for shard in range(new.shard_count):
        copies = list(row_copies(old, new, shard))
        targets = [row for copy in copies for row in range(copy.target, copy.target + copy.count)]
        assert targets == list(range(new.used_rows(shard)))
    if counts[0] == counts[1]:
        assert [len(list(row_copies(old, new, s))) for s in range(new.shard_count)] == [1] * new.shard_count


def test_counters_of_a_cut_tensor_that_differ_between_shards_are_refused(store: CheckpointStore) -> None:
    parts = [part_of(plan_of(2), shard, 1) for shard in range(2)]
    parts[1]["applied_steps"] += 1
    files = [store.save_part(PartId(LINEAGE, 1, s, 2, 0), part, {}) for s, part in enumerate(parts)]
    index = index_of(version=1, shard_count=2, files=tuple(files))
    store.write_index(index)
    with pytest.raises(CheckpointCorrupt, match=r"s1of2.*expected 1000 applied steps .* found 1001"):
        store.read_part(index, 0, 1)


# --- what is found to be corrupt ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["0", "3", "8", "40", "30 %", "60 %", "90 %", "-1"])
@pytest.mark.parametrize("shard", [0, 1])
def test_a_flipped_byte_anywhere_is_found_and_the_file_named(
    store: CheckpointStore, tmp_path: Path, shard: int, place: str
) -> None:
    index = save(store)
    number = int(place.removesuffix(" %"))
    position = number * index.files[shard].bytes // 100 if "%" in place else number
    flip(tmp_path / index.part_path(shard), position)
    with pytest.raises(CheckpointCorrupt, match=f"{index.part_path(shard)} .*{index.files[shard].sha256}"):
        store.verify(index)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_file_is_found_by_verifying_and_by_reading(
    store: CheckpointStore, tmp_path: Path, kept: int
) -> None:
    index = save(store)
    file = tmp_path / index.part_path(1)
    file.write_bytes(file.read_bytes()[:kept])
    for read in (
        store.verify,
        lambda index: store.read_part(index, 1, 2),
        lambda i: store.read_part(i, 0, 1),
    ):
        with pytest.raises(CheckpointCorrupt, match=rf"s1of2.*expected {index.files[1].bytes} bytes"):
            read(index)


def test_a_missing_file_is_found(url: str) -> None:
    store = CheckpointStore(url, JOB)
    index = save(store)
    fs, root = fsspec.core.url_to_fs(url)
    fs.rm_file(f"{root}/{index.part_path(0)}")
    for read in (store.verify, store.write_index, lambda index: store.read_part(index, 0, 2)):
        with pytest.raises(CheckpointCorrupt, match=r"s0of2.*expected a file, found none"):
            read(index)


def test_a_disk_that_cannot_read_a_file_any_more_counts_as_corrupt(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = save(store)

    def fail(*given: Any, **named: Any) -> None:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.open", fail)
    with pytest.raises(CheckpointCorrupt, match="bad sector"):
        store.verify(index)


def test_a_store_that_is_away_is_not_taken_for_a_corrupt_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """To fall back to an older checkpoint for a lost connection would throw away steps."""
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}", JOB)
    save(store)

    def fail(*given: Any, **named: Any) -> None:
        raise OSError(errno.EIO, "no network")

    monkeypatch.setattr(MemoryFileSystem, "open", fail)
    with pytest.raises(OSError, match="no network"):
        store.newest_verified()


def test_weights_that_are_not_finite_are_refused_at_saving(store: CheckpointStore, tmp_path: Path) -> None:
    part = part_of(plan_of(1), 0)
    part["weights"][3, 4] = np.nan
    part["weights"][70, 4] = np.inf
    with pytest.raises(CheckpointRefused, match="2 weights are not finite"):
        store.save_part(PartId(LINEAGE, 1, 0, 1, 0), part, {})
    assert not list(tmp_path.rglob("*"))


def test_weights_that_are_not_finite_are_found_although_the_digest_is_right(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = part_of(plan_of(1), 0)
    part["weights"][-1, -1] = -np.inf
    with monkeypatch.context() as patched:
        patched.setattr("sheepfold_server.storage.checkpoints.store.check_arrays", lambda arrays: None)
        file = store.save_part(PartId(LINEAGE, 1, 0, 1, 0), part, {})
    with pytest.raises(CheckpointCorrupt, match="expected finite weights"):
        store.verify(index_of(version=1, shard_count=1, files=(file,)))


def test_a_part_of_another_plan_is_found(store: CheckpointStore) -> None:
    file = store.save_part(PartId(LINEAGE, 1, 0, 1, 0), part_of(plan_of(2), 0), {})
    with pytest.raises(CheckpointCorrupt, match="as of the plan"):
        store.verify(index_of(version=1, shard_count=1, files=(file,)))


# --- the index -------------------------------------------------------------------------------------------


def test_a_flipped_byte_anywhere_in_an_index_makes_it_a_problem(
    store: CheckpointStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = save(store, 1), save(store, 2)
    file = tmp_path / newest.path
    good = file.read_bytes()
    for position in range(0, len(good), 7):
        flip(file, position)
        found = store.listing()
        assert found.indices == (older,)
        assert [problem.file for problem in found.problems] == [newest.path]
        file.write_bytes(good)
    assert newest.path in caplog.text


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"format":NaN}'])
def test_what_is_no_json_object_is_no_index(content: bytes) -> None:
    with pytest.raises(CheckpointIndexUnreadable):
        CheckpointIndex.from_bytes(content, "j/0/INDEX-1.1.json")


def test_an_index_of_another_format_is_named_as_such(store: CheckpointStore, tmp_path: Path) -> None:
    file = tmp_path / save(store).path
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(CheckpointFormatUnknown, match="expected format 1, found format 2"):
        CheckpointIndex.from_bytes(file.read_bytes(), f"{JOB}/{LINEAGE}/INDEX-1.1.json")
    assert "format 2" in store.listing().problems[0].reason


def test_an_index_under_the_name_of_another_is_a_problem(store: CheckpointStore, tmp_path: Path) -> None:
    index = save(store)
    (tmp_path / index.path).rename(tmp_path / JOB / LINEAGE / "INDEX-9.1.json")
    assert "expected its own index" in store.listing().problems[0].reason


@pytest.mark.parametrize(
    "change",
    [
        {"manifest_digest": "0" * 64},
        {"shard_count": 3},
        {"version": 2},
        {"created_at": float("nan")},
        {"lineage": ".."},
        {"files": ({"file": "1/../../s0of2.i5.aaaaaaaa.safetensors", "bytes": 1, "sha256": "0" * 64},) * 2},
    ],
)
def test_an_index_whose_values_do_not_fit_together_cannot_be(
    store: CheckpointStore, change: dict[str, Any]
) -> None:
    values = save(store).model_dump()
    with pytest.raises(ValueError, match="validation error"):
        CheckpointIndex.model_validate({**values, **change})


@pytest.mark.parametrize("ledger", [{"a": float("nan")}, {"a": object()}, {"a": b"x"}])
def test_a_ledger_that_is_no_json_is_refused(store: CheckpointStore, ledger: dict[str, Any]) -> None:
    with pytest.raises(CheckpointRefused, match="ledger of version 1"):
        save(store, ledger=ledger)
    assert not store.listing().indices


def test_the_index_of_the_highest_term_wins_and_the_other_stands_by(
    store: CheckpointStore, tmp_path: Path
) -> None:
    lower, higher = save(store, term=9), save(store, term=10)
    assert store.listing().indices == (higher,)
    assert store.listing().superseded == (lower,)
    flip(tmp_path / higher.path, 50)
    assert store.newest_verified().index == lower


def test_all_lineages_are_listed_newest_version_first(store: CheckpointStore) -> None:
    made = [save(store, version, lineage=lineage) for lineage, version in (("a", 3), ("b", 10), ("a", 9))]
    assert store.listing().indices == (made[1], made[2], made[0])
    assert store.listing("a").indices == (made[2], made[0])
    assert store.listing("never").indices == ()
    assert CheckpointStore(store.url, "other-job").listing().indices == ()


def test_an_index_of_another_job_is_refused(store: CheckpointStore) -> None:
    index = save(store)
    with pytest.raises(CheckpointRefused, match="open that job's store"):
        CheckpointStore(store.url, "other").write_index(index)


# --- falling back ----------------------------------------------------------------------------------------


def test_the_newest_that_verifies_is_taken_and_each_one_passed_over_is_named(
    store: CheckpointStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, flipped, no_index = (save(store, version) for version in (1, 2, 3))
    flip(tmp_path / flipped.part_path(1), -1)
    flip(tmp_path / no_index.path, 20)
    with caplog.at_level(logging.WARNING):
        choice = store.newest_verified(LINEAGE)
    assert choice.index == good
    assert {problem.file for problem in choice.skipped} == {flipped.path, no_index.path}
    assert flipped.part_path(1) in caplog.text
    assert no_index.path in caplog.text


def test_no_checkpoint_is_an_answer_and_not_an_error(store: CheckpointStore) -> None:
    assert store.newest_verified().index is None


# --- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "../a", "a\n", "ä", "a" * 129, "a\0", "a b"])
def test_a_name_that_could_leave_its_folder_is_refused(store: CheckpointStore, name: str) -> None:
    uses: list[Callable[[], Any]] = [
        lambda: CheckpointStore(store.url, name),
        lambda: PartId(name, 1, 0, 1, 0),
        lambda: store.listing(name),
        lambda: store.retain(2, name),
    ]
    for use in uses:
        with pytest.raises(CheckpointRefused, match="give 1 to 128 of"):
            use()


@pytest.mark.parametrize(
    "numbers", [(-1, 0, 1, 0), (1, 1, 1, 0), (1, -1, 1, 0), (1, 0, 1, -1), (1, 0, 5000, 0)]
)
def test_a_number_that_no_part_can_have_is_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(CheckpointRefused, match="give "):
        PartId(LINEAGE, *numbers)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.zeros((64, 1000), np.float32)},
        {"weights": np.zeros((63, 1024), np.float32)},
        {"weights": np.zeros((64, 1024), np.float64)},
        {"state.0": np.zeros((64, 1024), np.float32)},
        {"state.7": np.zeros((64, 1024), np.float32)},
        {"applied_steps": np.zeros((2, 2), np.int64)},
        {"floats": np.zeros(3, np.int64)},
        {"extra": np.zeros(3, np.int64)},
    ],
)
def test_arrays_that_are_no_part_are_refused(store: CheckpointStore, change: Arrays) -> None:
    with pytest.raises(CheckpointRefused, match="no part of a checkpoint"):
        store.save_part(PartId(LINEAGE, 1, 0, 1, 0), {**part_of(plan_of(1), 0), **change}, {})


def test_a_header_that_could_not_be_read_again_is_not_written(store: CheckpointStore, tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="shorten the metadata"):
        store.save_part(PartId(LINEAGE, 1, 0, 1, 0), part_of(plan_of(1), 0), {"a": "x" * 2**20})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- retention -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [-1, 0, 1])
def test_fewer_than_two_checkpoints_are_never_kept(store: CheckpointStore, count: int) -> None:
    index = save(store)
    with pytest.raises(ValueError, match=r"keep at least 2|give a whole number"):
        store.retain(count, LINEAGE)
    assert store.listing().indices == (index,)


def test_the_newest_ones_are_kept_and_the_files_of_others_are_gone(url: str) -> None:
    store = CheckpointStore(url, JOB)
    made = [save(store, version) for version in (1, 2, 3, 10)]
    assert store.retain(5, LINEAGE) == ()
    assert store.retain(2, LINEAGE) == (1, 2)
    assert store.listing().indices == (made[3], made[2])
    for index in made[2:]:
        store.verify(index)
    fs, root = fsspec.core.url_to_fs(url)
    left = {path.rsplit("/", 1)[-1] for path in fs.find(root)}
    wanted = {index.name for index in made[2:]} | {
        part.file.rsplit("/", 1)[-1] for index in made[2:] for part in index.files
    }
    assert left == wanted


def test_retention_that_dies_between_removes_indices_first_and_is_made_up_for_later(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in range(1, 5):
        save(store, version)
    removals = 0
    for n in range(1, 100):
        with monkeypatch.context() as patched:
            patched.setattr(directory, "os", FaultyOs(n, Killed, {"unlink"}))
            try:
                store.retain(2, LINEAGE)
            except Killed:
                removals += 1
        survivors = store.listing()
        assert not survivors.problems
        for index in survivors.indices:
            store.verify(index)
        assert [index.version for index in survivors.indices][:2] == [4, 3]
        if not (tmp_path / JOB / LINEAGE / "1").exists() and not (tmp_path / JOB / LINEAGE / "2").exists():
            break
    assert removals


def test_files_are_kept_that_an_unreadable_index_may_refer_to(store: CheckpointStore, tmp_path: Path) -> None:
    made = [save(store, version) for version in range(1, 5)]
    flip(tmp_path / made[0].path, 30)
    assert store.retain(2, LINEAGE) == (2,)
    assert (tmp_path / made[0].path).exists()
    assert (tmp_path / made[0].part_path(0)).exists()
    assert not (tmp_path / made[1].part_path(0)).exists()


def test_retention_leaves_other_lineages_and_newer_saves_alone(
    store: CheckpointStore, tmp_path: Path
) -> None:
    other = save(store, 1, lineage="other")
    for version in range(1, 4):
        save(store, version)
    part = store.save_part(PartId(LINEAGE, 9, 0, 2, 0), part_of(plan_of(2), 0), {})
    assert store.retain(2, LINEAGE) == (1,)
    store.verify(other)
    assert (tmp_path / JOB / LINEAGE / part.file).exists()


def test_only_old_temporary_files_are_swept(store: CheckpointStore, tmp_path: Path) -> None:
    index = save(store)
    folder = tmp_path / JOB / LINEAGE
    for place, age in (("tmp-a", 100), ("1/tmp-b", 100), ("1/tmp-c", 300)):
        (folder / place).write_bytes(b"half")
        os.utime(folder / place, (age, age))
    assert sorted(store.sweep(200)) == [f"{JOB}/{LINEAGE}/1/tmp-b", f"{JOB}/{LINEAGE}/tmp-a"]
    assert temporaries(tmp_path) == [folder / "1" / "tmp-c"]
    store.verify(index)


# --- faults of a directory -------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing after it runs."""


class FaultyOs:
    """The os module, whose n-th call of a kind fails; a kill lets every later call fail too."""

    def __init__(self, fails_at: int, fault: Callable[[], BaseException], kinds: set[str]) -> None:
        self.fails_at, self.fault, self.kinds = fails_at, fault, kinds
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.counted(name, real) if name in self.kinds else real

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            self.calls += 1
            error = self.fault()
            is_dead = isinstance(error, Killed) and self.calls > self.fails_at
            if self.calls == self.fails_at and name == "write":
                real(given[0], given[1][: len(given[1]) // 2])
            if self.calls == self.fails_at or is_dead:
                raise error
            return real(*given)

        return call


STEPS_OF_A_SAVE = {"open", "write", "fsync", "rename", "close", "unlink", "posix_fadvise"}


def faults(
    kinds: set[str], fault: Callable[[], BaseException], patch: pytest.MonkeyPatch
) -> Iterator[FaultyOs]:
    """The os module of the store with a fault at the first call, at the second, and so on to the last."""
    for n in range(1, 10_000):
        with patch.context() as patched:
            faulty = FaultyOs(n, fault, kinds)
            patched.setattr(directory, "os", faulty)
            yield faulty
        if faulty.calls < n:
            return


@pytest.mark.slow
def test_a_kill_at_any_step_of_a_save_leaves_the_older_checkpoint_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = set()
    save(CheckpointStore(str(tmp_path), JOB), 1, 1)
    for n, _ in enumerate(faults(STEPS_OF_A_SAVE, Killed, monkeypatch)):
        store = CheckpointStore(str(tmp_path), JOB)
        try:
            save(store, 2, 1, term=n)
            outcomes.add("saved")
        except Killed:
            outcomes.add("killed")
        with monkeypatch.context() as patched:
            patched.setattr(directory, "os", os)
            choice = store.newest_verified()
            assert choice.index is not None
            assert not choice.skipped
            assert_holds(store, choice.index, choice.index.version)
            outcomes.add(f"version {choice.index.version}")
            for path in (tmp_path / JOB / LINEAGE).glob("INDEX-2.*"):
                path.unlink()
    assert outcomes == {"saved", "killed", "version 1", "version 2"}
    assert temporaries(tmp_path)
    store.sweep(2**40)
    assert not temporaries(tmp_path)


@pytest.mark.parametrize("kinds", [{kind} for kind in sorted(STEPS_OF_A_SAVE - {"unlink"})])
def test_an_error_at_any_step_of_a_save_is_told_and_leaves_no_temporary_file(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: set[str]
) -> None:
    older = save(store, 1, 1)
    told = 0
    for n, _ in enumerate(faults(kinds, lambda: OSError(errno.ENOSPC, "disk full"), monkeypatch)):
        try:
            save(store, 2, 1, term=n)
        except CheckpointNotStored as error:
            told += "disk full" in str(error)
        assert not temporaries(tmp_path)
        store.verify(older)
        for index in store.listing().indices:
            store.verify(index)
    assert told >= 2, "the part and the index both take this step"


def test_a_disk_that_keeps_other_bytes_than_written_is_noticed_at_once(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LyingOs(FaultyOs):
        def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            return lambda descriptor, data: real(descriptor, bytes(len(data)))

    monkeypatch.setattr(directory, "os", LyingOs(0, Killed, {"write"}))
    with pytest.raises(CheckpointNotStored, match=r"expected \d+ bytes of SHA-256 .* found"):
        save(store)
    assert not store.listing().indices


def test_a_write_that_takes_a_few_bytes_at_a_time_is_carried_on(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HastyOs(FaultyOs):
        def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            return lambda descriptor, data: real(descriptor, data[:100_000])

    monkeypatch.setattr(directory, "os", HastyOs(0, Killed, {"write"}))
    assert_holds(store, save(store), 1)


def test_every_new_folder_is_made_durable_in_the_one_above(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = directory.sync_folder

    def sync(path: str) -> None:
        real(path)
        synced.append(path)

    monkeypatch.setattr(directory, "sync_folder", sync)
    save(store, 1, 1)
    wanted = [tmp_path, tmp_path / JOB, tmp_path / JOB / LINEAGE, tmp_path / JOB / LINEAGE / "1"]
    assert synced == [*map(str, wanted), str(tmp_path / JOB / LINEAGE)]


def test_every_error_says_what_to_do_next() -> None:
    for kind in (CheckpointCorrupt, CheckpointNotStored, CheckpointIndexUnreadable):
        assert issubclass(kind, CheckpointError)
        text = str(kind("the-file", "this", "that"))
        assert "the-file" in text
        assert "expected this, found that; " in text
