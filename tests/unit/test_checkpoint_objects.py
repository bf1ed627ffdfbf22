"""sheepfold_server.storage.checkpoints in stores of objects, whose puts, gets and lists may fail."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from tests.conftest import require
from tests.unit.checkpointed import JOB, LINEAGE, SMALL, assert_parts, index_of, save, save_parts
from tests.unit.faulty_objects import (
    FAULTS_OF_S3,
    OPERATIONS,
    Faults,
    FaultyFileSystem,
    FaultyServer,
    s3_server,
)

from sheepfold_server.storage.checkpoints import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointIndex,
    CheckpointIndexTaken,
    CheckpointNotStored,
    CheckpointStore,
    files,
)

OPERATIONS_MAX = 200


@dataclass
class Objects:
    """A store of objects that is empty, and its faults."""

    url: str
    faults: Faults
    server: FaultyServer | None = None

    def store(self) -> CheckpointStore:
        return CheckpointStore(self.url, JOB)

    def names(self) -> set[str]:
        """Of everything in the store."""
        filesystem, root = fsspec.core.url_to_fs(self.url)
        filesystem.invalidate_cache()
        return {path.removeprefix(f"{root.rstrip('/')}/") for path in filesystem.find(root)}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    """An S3 server, which s3fs finds by itself. The driver repeats nothing: every fault reaches the store."""
    missing = [name for name in ("s3fs", "moto", "flask", "flask_cors") if find_spec(name) is None]
    if missing:
        require("s3", f"not installed: {', '.join(missing)}; pip install 'sheepfold[dev]'")
    import s3fs

    with s3_server(Faults()) as (address, application), pytest.MonkeyPatch.context() as patched:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patched.setenv(name, value)
        patched.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        yield application


@pytest.fixture
def s3(server: FaultyServer) -> Iterator[Objects]:
    """A bucket of its own."""
    bucket = f"b-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(bucket)
    server.puts.clear()
    yield Objects(f"s3://{bucket}/checkpoints", server.faults, server)
    server.faults.disarm()
    server.before_put, server.knows_conditions = lambda path: None, True


@pytest.fixture
def memory() -> Iterator[Objects]:
    FaultyFileSystem.faults.disarm()
    yield Objects(f"faulty://{uuid.uuid4().hex}", FaultyFileSystem.faults)
    FaultyFileSystem.faults.disarm()


@pytest.fixture(params=["memory", "s3"])
def objects(request: pytest.FixtureRequest) -> Objects:
    given: Objects = request.getfixturevalue(request.param)
    return given


EVERY_FAULT = [("memory", fault) for fault in OPERATIONS] + [("s3", fault) for fault in FAULTS_OF_S3]
FAULTS_OF_A_SAVE = [(kind, fault) for kind, fault in EVERY_FAULT if not fault.startswith("list")]
FAULTS_OF_A_READ = [(kind, fault) for kind, fault in EVERY_FAULT if not fault.startswith("put")]


def each_fault(faults: Faults, fault: str) -> Iterator[int]:
    """The fault at the first operation of its kind, at the second, and so on until there are no more."""
    for at in range(1, OPERATIONS_MAX):
        faults.arm(fault, at)
        yield at
        faults.disarm()
        if not faults.fired:
            return
    raise AssertionError(f"no end of {fault} after {OPERATIONS_MAX} operations")


# --- round trip ------------------------------------------------------------------------------------------


def test_what_was_saved_in_a_store_of_objects_is_what_is_read(objects: Objects) -> None:
    index = save(objects.store(), 7, 3)
    other = objects.store()
    assert other.listing().indices == (index,)
    other.verify(index)
    assert_parts(other, index)


def test_a_state_that_goes_over_another_number_of_shards_is_read_by_offset_from_s3(s3: Objects) -> None:
    store = s3.store()
    index = save(store, 4, 1)
    parts = [store.read_part(index, shard, 3) for shard in range(3)]
    assert sum(part["weights"].shape[0] for part in parts) >= index.plan(1).rows(0)


def test_retention_in_s3_leaves_the_files_of_what_it_keeps_and_nothing_else(s3: Objects) -> None:
    store = s3.store()
    made = [save(store, version, manifest=SMALL) for version in (1, 2, 3)]
    assert store.retain(2, LINEAGE) == (1,)
    assert s3.names() == {name for index in made[1:] for name in names_of(index)}


def names_of(index: CheckpointIndex) -> set[str]:
    return {index.path, *(index.part_path(shard) for shard in range(index.shard_count))}


# --- every fault at every operation ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "fault"), FAULTS_OF_A_SAVE)
def test_no_fault_of_a_save_harms_a_checkpoint_and_the_next_try_succeeds(
    kind: str, fault: str, request: pytest.FixtureRequest
) -> None:
    """The try after a fault is of the same version and term, as by a coordinator that goes on."""
    objects: Objects = request.getfixturevalue(kind)
    store, fired, told = objects.store(), 0, 0
    for at in each_fault(objects.faults, fault):
        lineage = f"try-{at}"
        objects.faults.disarm()
        older = save(store, 1, 1, SMALL, lineage=lineage)
        objects.faults.arm(fault, at)
        try:
            save(store, 2, 1, SMALL, lineage=lineage)
        except (CheckpointNotStored, OSError):
            told += 1
        fired += objects.faults.fired
        objects.faults.disarm()
        assert newest(objects, lineage, may_skip="half" in fault) in (1, 2)
        store.verify(older)
        save(store, 2, 1, SMALL, lineage=lineage)
        assert newest(objects, lineage) == 2
    assert fired >= 2, "a part and an index, at least"
    assert told or fault == "get cut short", "a cut read may be made up for"


def newest(objects: Objects, lineage: str = LINEAGE, may_skip: bool = False) -> int:
    """The version of the newest checkpoint, which holds what it should; no other is passed over for it.

    `may_skip` tells of a put that left half an index: that one is passed over, and named.
    """
    store = objects.store()
    choice = store.newest_verified(lineage)
    assert choice.index is not None
    assert not choice.skipped or (may_skip and "INDEX" in choice.skipped[0].file)
    assert_parts(store, choice.index)
    return choice.index.version


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "fault"), FAULTS_OF_A_READ)
def test_no_fault_of_a_read_makes_a_store_fall_back_or_read_anything_else(
    kind: str, fault: str, request: pytest.FixtureRequest
) -> None:
    """A store that is bad for a moment must not cost the steps since the older checkpoint."""
    objects: Objects = request.getfixturevalue(kind)
    save(objects.store(), 1, 1, SMALL)
    assert newest(objects) == 1  # lists, which may be given again when they are out of date
    save(objects.store(), 2, 1, SMALL)
    fired, told = 0, 0
    for _ in each_fault(objects.faults, fault):
        try:
            version = newest(objects)
        except CheckpointError:
            raise
        except Exception:  # the store's own, of any class
            told += 1
        else:
            assert version == 2 or fault == "list out of date", "fell back"
        fired += objects.faults.fired
    assert fired
    assert told or "refused" not in fault
    assert newest(objects) == 2


def test_reads_that_stay_short_are_a_corrupt_file_and_loud(
    memory: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    store = memory.store()
    index = save(store, 1, manifest=SMALL)
    memory.faults.arm("get cut short", is_lasting=True)
    with caplog.at_level(logging.WARNING), pytest.raises(CheckpointCorrupt, match=index.part_path(0)):
        store.verify(index)
    assert "reading again" in caplog.text
    assert memory.faults.fired >= 2


# --- listings ----------------------------------------------------------------------------------------------


def test_retention_by_an_old_list_removes_no_checkpoint_that_is_among_the_newest(objects: Objects) -> None:
    store = objects.store()
    made = [save(store, version, manifest=SMALL) for version in (1, 2, 3)]
    store.listing()
    store._remove_data(LINEAGE, 0)  # lists the folders too
    made += [save(store, version, manifest=SMALL) for version in (4, 5)]
    objects.faults.arm("list out of date", is_lasting=True)
    store.retain(2, LINEAGE)
    assert objects.faults.fired
    objects.faults.disarm()
    for index in made[1:]:
        store.verify(index)
    assert newest_index(objects) == made[4]


def test_a_list_without_the_last_good_checkpoint_does_not_cost_it(memory: Objects) -> None:
    """Two newer ones are damaged, and the good one is not in the list: its files look like nobody's."""
    store = memory.store()
    good, *damaged = (save(store, version, manifest=SMALL) for version in (1, 2, 3))
    for index in damaged:
        MemoryFileSystem().pipe_file(memory.url.removeprefix("faulty:/") + "/" + index.part_path(0), b"")
    folder = f"{memory.url.removeprefix('faulty:/')}/{JOB}/{LINEAGE}"
    listed = MemoryFileSystem().ls(folder, detail=True)
    memory.faults.arm("list out of date", is_lasting=True)
    FaultyFileSystem.listings[folder.lstrip("/")] = [e for e in listed if not e["name"].endswith(good.name)]
    assert [index.version for index in store.listing(LINEAGE).indices] == [3, 2], "the list is out of date"
    assert store.retain(2, LINEAGE) == ()
    memory.faults.disarm()
    store.verify(good)


def test_a_length_is_not_taken_from_an_old_list(s3: Objects) -> None:
    """s3fs keeps lists, and takes lengths out of them."""
    store = s3.store()
    index = save(store, manifest=SMALL)
    filesystem, root = fsspec.core.url_to_fs(s3.url)
    name = f"{root}/{index.part_path(0)}"
    content = filesystem.cat_file(name)
    filesystem.pipe_file(name, content[:-1])
    filesystem.ls(name.rsplit("/", 1)[0], refresh=True)  # cached by the instance that the store shares
    type(filesystem)(skip_instance_cache=True).pipe_file(name, content)
    with store._files.open(index.part_path(0)) as file:
        assert file.read() == content
    store.verify(index)


# --- one writer of a name ----------------------------------------------------------------------------------


def newest_index(objects: Objects) -> CheckpointIndex | None:
    return objects.store().newest_verified(LINEAGE).index


def rival(store: CheckpointStore, version: int = 2) -> CheckpointIndex:
    """An index of another state under the version and term of `save`, its files stored."""
    files = save_parts(store, version, 2, SMALL)
    return index_of(version=version, shard_count=2, files=files, ledger={"of": "another"}, **texts())


def texts() -> dict[str, str]:
    return {"manifest_json": SMALL.to_json(), "manifest_digest": SMALL.digest}


def written_between(s3: Objects) -> tuple[CheckpointIndex, bool]:
    """(an index that another coordinator wrote just before the put of ours, whether ours was stored)."""
    server = s3.server
    assert server is not None
    second = s3.store()
    other = rival(second)

    def write_first(path: str) -> None:
        if path.endswith(other.name):
            server.before_put = lambda path: None
            second.write_index(other)

    server.before_put = write_first
    try:
        save(s3.store(), 2, manifest=SMALL)
    except CheckpointIndexTaken:
        return other, False
    return other, True


def test_of_two_coordinators_at_the_same_instant_one_has_the_index_in_s3(s3: Objects) -> None:
    """Both have looked and found nothing before either writes."""
    winner, is_stored_too = written_between(s3)
    assert not is_stored_too
    assert newest_index(s3) == winner


def test_without_a_conditional_put_both_would_believe_to_have_it(
    s3: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above is able to see."""
    monkeypatch.setattr(files, "EXCLUSIVE_PROTOCOLS", frozenset())
    loser, is_stored_too = written_between(s3)
    assert is_stored_too
    assert newest_index(s3) != loser


def test_a_server_that_ignores_conditions_is_found_out_by_the_trial(s3: Objects) -> None:
    """Drivers of S3 also speak to other servers."""
    assert s3.server is not None
    assert s3.store()._files._creates_exclusively("trial")
    s3.server.knows_conditions = False
    assert not s3.store()._files._creates_exclusively("trial")
    assert not s3.names()


def test_the_trial_is_made_once_a_store_and_never_where_the_driver_is_not_known(
    s3: Objects, memory: Objects
) -> None:
    assert s3.server is not None
    store = s3.store()
    for version in (1, 2):
        save(store, version, manifest=SMALL)
    assert sum(files.PROBE in path for path in s3.server.puts) == files.PROBE_WRITERS
    assert not memory.store()._files._creates_exclusively("trial")


def test_a_put_that_the_driver_repeats_after_a_lost_answer_is_known_as_its_own(
    s3: Objects, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The second one is refused by its condition, since the first was stored."""
    drivers = fsspec.get_filesystem_class("s3")
    request.addfinalizer(drivers.clear_instance_cache)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    drivers.clear_instance_cache()
    store = s3.store()
    assert store._files._creates_exclusively(JOB)
    index = index_of(version=1, shard_count=2, files=save_parts(store, 1, 2, SMALL), **texts())
    assert s3.server is not None
    s3.server.puts.clear()
    s3.faults.arm("put stored, answer lost")
    store.write_index(index)
    assert s3.faults.fired == 1
    assert len(s3.server.puts) == 2
    assert newest_index(s3) == index


def test_the_same_state_saved_again_leaves_the_index_that_stands(objects: Objects) -> None:
    store = objects.store()
    first = save(store, 1, manifest=SMALL)
    save(store, 1, manifest=SMALL, created_at=2e9)
    assert newest_index(objects) == first


def test_another_state_under_the_same_term_is_refused_and_the_one_that_stands_is_kept(
    objects: Objects,
) -> None:
    store = objects.store()
    first = save(store, 2, manifest=SMALL)
    with pytest.raises(CheckpointIndexTaken, match=r"INDEX-2\.1\.json .*end the other coordinator"):
        store.write_index(rival(store))
    assert newest_index(objects) == first


def test_another_state_of_a_higher_term_wins(objects: Objects) -> None:
    store = objects.store()
    save(store, 2, manifest=SMALL, term=9)
    higher = save(store, 2, manifest=SMALL, term=10, ledger={"of": "another"})
    assert newest_index(objects) == higher


@pytest.mark.parametrize("content", [b"", b"{", b"half"])
def test_an_index_that_nobody_can_read_is_written_over(objects: Objects, content: bytes) -> None:
    store = objects.store()
    index = save(store, 1, manifest=SMALL)
    store._files._filesystem.pipe_file(store._files._path(index.path), content)
    store.write_index(index)
    assert newest_index(objects) == index


def test_an_index_of_a_newer_program_is_not_written_over(objects: Objects) -> None:
    store = objects.store()
    index = save(store, 1, manifest=SMALL)
    content = b'{"format":2}'
    store._files._filesystem.pipe_file(store._files._path(index.path), content)
    with pytest.raises(CheckpointIndexTaken, match="format 2"):
        store.write_index(index)
    with store._files.open(index.path) as file:
        assert file.read() == content
