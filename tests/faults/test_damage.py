"""A full disk, a failing one and single flipped bits, in every file of checkpoints and logs.

Each is an error that names the file, what was expected and found, and the remedy; a damaged checkpoint costs
itself only, and the last good one is never removed. SHEEPFOLD_FLIPS=1000 flips as many bits in each file
(default 60), SHEEPFOLD_SEED=n those of an earlier run, which prints its seed.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import require
from tests.faults.crash_scenarios import (
    FORGOTTEN,
    OWNER,
    RECORDS,
    SCENARIOS,
    SEGMENT_BYTES,
    opened_log,
    record,
    with_checkpoints,
    with_records,
)
from tests.faults.crashes import CHANGES, Crash, Crashing, why_not
from tests.unit.checkpointed import JOB, LINEAGE, assert_holds, temporaries

from sheepfold_server.storage.checkpoints import CheckpointStore
from sheepfold_server.storage.log.errors import LogError
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_server.storage.log.records import HEADER_BYTES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FLIPS = int(os.environ.get("SHEEPFOLD_FLIPS", "60"))
SEED = int(os.environ.get("SHEEPFOLD_SEED") or random.SystemRandom().getrandbits(32))


@pytest.fixture(autouse=True)
def said_seed() -> None:
    """Seen where a test fails."""
    print(f"SHEEPFOLD_SEED={SEED}")


@contextmanager
def flipped(path: Path, at: int, bit: int) -> Iterator[None]:
    good = path.read_bytes()
    bad = bytearray(good)
    bad[at] ^= 1 << bit
    path.write_bytes(bad)
    try:
        yield
    finally:
        path.write_bytes(good)


def places(path: Path, ranges: list[range]) -> list[tuple[int, int]]:
    """(byte, bit) of each flip, at random: most in the ranges, each as likely as the next; some anywhere."""
    numbers = random.Random(f"{SEED} {path.name}")
    everything = range(path.stat().st_size)
    chosen = [everything if n % 6 == 0 else numbers.choice(ranges) for n in range(FLIPS)]
    return [(numbers.choice(each), numbers.randrange(8)) for each in chosen]


def assert_tells(text: str, file: str, remedy: str) -> None:
    for word in (file, "expected", "found", remedy):
        assert word in text, f"{word!r} is missing in: {text}"


# --- flipped bits in checkpoints -------------------------------------------------------------------------

FILES_OF_A_CHECKPOINT = ["shard 0", "shard 1", "index"]


def file_of(store: CheckpointStore, version: int, which: str) -> str:
    """Relative to the url."""
    index = next(index for index in store.listing(LINEAGE).indices if index.version == version)
    return index.path if which == "index" else index.part_path(int(which.removeprefix("shard ")))


@pytest.mark.parametrize("which", FILES_OF_A_CHECKPOINT)
def test_any_flipped_bit_of_the_newest_checkpoint_is_found_and_the_older_one_taken_loudly(
    which: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = with_checkpoints(tmp_path, 2)
    file = file_of(store, 2, which)
    size = (tmp_path / file).stat().st_size
    for at, bit in places(tmp_path / file, [range(min(size, 1000)), range(size)]):
        caplog.clear()
        with flipped(tmp_path / file, at, bit), caplog.at_level(logging.WARNING):
            choice = store.newest_verified(LINEAGE)
        assert choice.index is not None
        assert choice.index.version == 1, f"byte {at}, bit {bit} of {file} was not noticed"
        assert len(choice.skipped) == 1
        assert_tells(choice.skipped[0].reason, file, "restore an older")
        assert "passing over" in caplog.text
        assert choice.skipped[0].reason in caplog.text
    choice = store.newest_verified(LINEAGE)
    assert choice.index is not None
    assert choice.index.version == 2, "without a flip it is good"


@pytest.mark.parametrize("which", FILES_OF_A_CHECKPOINT)
def test_the_only_good_checkpoint_is_not_removed_for_newer_ones_that_are_damaged(
    which: str, tmp_path: Path
) -> None:
    store = with_checkpoints(tmp_path, 3)
    numbers = random.Random(SEED)
    for version in (2, 3):
        path = tmp_path / file_of(store, version, which)
        content = bytearray(path.read_bytes())
        content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
        path.write_bytes(content)
    assert store.retain(2, LINEAGE) == ()
    choice = store.newest_verified(LINEAGE)
    assert choice.index is not None
    assert_holds(store, choice.index, 1)


# --- flipped bits in logs --------------------------------------------------------------------------------


def used(directory: Path) -> dict[Path, list[range]]:
    """The bytes of each segment that say something: the rest is room between records, and after them."""
    found: dict[Path, list[range]] = {}
    for each in RecordLog(directory, OWNER, SEGMENT_BYTES).read():
        length = int.from_bytes(each.path.read_bytes()[8:12], "little")
        ranges = found.setdefault(each.path, [range(20 + length)])
        start = each.payload_offset - HEADER_BYTES
        ranges.append(range(start, each.header.text_at(start) + each.header.text_bytes))
    return found


SEGMENTS = range(5)


@pytest.mark.parametrize("which", SEGMENTS)
def test_any_flipped_bit_of_a_log_is_an_error_or_ends_the_log_loudly_at_its_last_record(
    which: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A flip in the last record looks like a record that was being written, whose commit others may hold."""
    with_records(tmp_path, RECORDS)
    good, ranges = opened_log(tmp_path)[1], used(tmp_path)
    assert len(ranges) == len(SEGMENTS)
    path = sorted(ranges)[which]
    is_last = path == max(ranges)
    seen: Counter[str] = Counter()
    for at, bit in places(path, ranges[path]):
        is_used = any(at in each for each in ranges[path])
        caplog.clear()
        with flipped(path, at, bit), caplog.at_level(logging.WARNING):
            try:
                found = opened_log(tmp_path)[1]
            except LogError as error:
                assert is_used
                assert_tells(str(error), path.name, "restore the file")
                seen["refused"] += 1
                continue
        if is_last and at in ranges[path][-1]:
            assert found == good[:-1]
            assert_tells(caplog.text, path.name, "the log is cut")
            seen["cut"] += 1
        else:
            assert not is_used, f"byte {at}, bit {bit} of {path.name} was not noticed"
            assert found == good
            seen["unused"] += 1
    print(f"{path.name}: {dict(seen)}")
    assert seen["refused"] > FLIPS // 4
    assert bool(seen["cut"]) == is_last
    assert opened_log(tmp_path)[1] == good


def test_flipped_bits_in_a_file_kept_for_reuse_harm_nothing(tmp_path: Path) -> None:
    numbers = random.Random(SEED)
    log, _ = opened_log(tmp_path)
    for number in range(40):
        text, payload = record(number)
        log.append(text, [payload])
        if number == 20:
            log.forget_before(15)
            spares = list(tmp_path.glob("*.spare"))
            for spare in spares:
                content = bytearray(spare.read_bytes())
                for _ in range(FLIPS):
                    content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
                spare.write_bytes(content)
    assert spares
    assert not [spare for spare in spares if spare.exists()], "they were used again"
    assert opened_log(tmp_path)[1][-25:] == [record(number) for number in range(15, 40)]


# --- a full disk and a failing one -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    folder = tmp_path_factory.mktemp("errors")
    if reason := why_not(folder):
        require("strace", reason)
    with Crashing(folder) as given:
        yield given


def prepared(scenario: str, tmp_path: Path) -> Path:
    before = tmp_path / "before"
    SCENARIOS[scenario][0](before)
    return before


def each_error(crashing: Crashing, scenario: str, error: str, tmp_path: Path) -> Iterator[Crash]:
    """Of every system call that changes files, and the undisturbed try at last."""
    struck: Counter[str] = Counter()
    told = 0
    kinds = tuple(call for call in CHANGES if call != "write" or scenario != "append_stubbornly")
    for crash in crashing.each_error(scenario, prepared(scenario, tmp_path), kinds, error):
        yield crash
        struck[crash.system_call] += 1
        told += len(crash.errors)
        for text in crash.errors:
            assert ("expected" in text and "found" in text) or str(crash.directory) in text, text
    assert struck.pop("") == 1
    print(f"{scenario}: {error} at {struck.total()} system calls: {dict(struck)}; {told} errors told")
    assert told >= struck.total() // 4, "the errors did not arrive"


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_save_that_any_system_call_refuses_is_told_and_the_next_try_succeeds(
    error: str, crashing: Crashing, tmp_path: Path
) -> None:
    for crash in each_error(crashing, "save_stubbornly", error, tmp_path):
        assert crash.acknowledged == (2,)
        store = CheckpointStore(str(crash.directory), JOB)
        choice = store.newest_verified(LINEAGE)
        assert choice.index is not None
        assert not choice.skipped
        assert_holds(store, choice.index, 2)
        store.verify(store.listing(LINEAGE).indices[-1])


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_append_that_any_system_call_refuses_is_told_and_the_next_try_succeeds(
    error: str, crashing: Crashing, tmp_path: Path
) -> None:
    for crash in each_error(crashing, "append_stubbornly", error, tmp_path):
        assert crash.acknowledged == tuple(range(RECORDS // 2, RECORDS))
        log, found = opened_log(crash.directory)
        assert log.next_sequence == RECORDS
        assert_whole(log, found)


def assert_whole(log: RecordLog, found: list[tuple[str, bytes]]) -> None:
    """Nothing is missing but what may be forgotten."""
    first = log.next_sequence - len(found)
    assert first <= FORGOTTEN
    assert found == [record(number) for number in range(first, log.next_sequence)]


@pytest.mark.parametrize("which", FILES_OF_A_CHECKPOINT)
def test_file_of_the_newest_checkpoint_that_the_disk_has_lost_costs_that_one_only(
    which: str, crashing: Crashing, tmp_path: Path
) -> None:
    before = prepared("restore", tmp_path)
    file = file_of(CheckpointStore(str(before), JOB), 2, which)
    with crashing.tried("restore", before, ("read",), "inject=read:error=EIO", only=file) as crash:
        assert crash.system_call == "read"
        assert crash.acknowledged == (1,)
        assert len(crash.errors) == 1
        assert_tells(crash.errors[0], file, "restore an older")
    with crashing.tried("restore", before, ("read",), "inject=read:error=EIO:when=1", only=file) as crash:
        assert crash.system_call == "read"
        assert crash.acknowledged == (2,), "once is not lost"
    with crashing.tried("restore", before, ("read",), only=file) as crash:
        assert crash.acknowledged == (2,)


def test_log_that_the_disk_has_lost_is_an_error_that_names_the_file(
    crashing: Crashing, tmp_path: Path
) -> None:
    before = prepared("read_log", tmp_path)
    for name in sorted(path.name for path in before.glob("*.log")):
        for call in ("pread64", "preadv2"):
            with crashing.tried("read_log", before, (call,), f"inject={call}:error=EIO", only=name) as crash:
                assert crash.system_call == call
                assert not crash.acknowledged
                assert_tells(crash.errors[0], name, "restore the file")
    with crashing.tried("read_log", before, ("pread64", "preadv2")) as crash:
        assert crash.acknowledged == (RECORDS,)


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_disk_that_stays_full_keeps_the_older_checkpoint(
    call: str, crashing: Crashing, tmp_path: Path
) -> None:
    before = prepared("save_stubbornly", tmp_path)
    with crashing.tried("save_stubbornly", before, (call,), f"inject={call}:error=ENOSPC") as crash:
        assert crash.system_call == call
        assert not crash.acknowledged
        store = CheckpointStore(str(crash.directory), JOB)
        choice = store.newest_verified(LINEAGE)
        assert choice.index is not None
        assert not choice.skipped
        assert_holds(store, choice.index, 1)
        assert not temporaries(crash.directory)


@pytest.mark.parametrize(
    ("call", "nth"), [("pwrite64", 9), ("fdatasync", 4), ("fsync", 3), ("rename", 3), ("fallocate", 1)]
)
def test_disk_that_stays_full_keeps_every_record_that_was_acknowledged(
    call: str, nth: int, crashing: Crashing, tmp_path: Path
) -> None:
    before = prepared("append_stubbornly", tmp_path)
    inject = f"inject={call}:error=ENOSPC:when={nth}+"
    with crashing.tried("append_stubbornly", before, (call,), inject) as crash:
        assert crash.system_call == call
        log, found = opened_log(crash.directory)
        assert log.next_sequence > max(crash.acknowledged, default=RECORDS // 2 - 1)
        assert log.next_sequence < RECORDS
        assert_whole(log, found)
