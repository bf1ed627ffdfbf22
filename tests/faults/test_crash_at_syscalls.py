"""kill -9 at every system call of a save, of retention and of a log loses nothing that was acknowledged.

By default at those that change files; SHEEPFOLD_CRASH_AT=all takes every one, which finds the same states in
three times the time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import require
from tests.faults.crash_scenarios import FORGOTTEN, RECORDS, SCENARIOS, opened_log, record
from tests.faults.crashes import CHANGES, EVERY, Crash, Crashing, why_not
from tests.unit.checkpointed import JOB, LINEAGE, SMALL, assert_holds, save, temporaries

from sheepfold_server.storage.checkpoints import CheckpointStore
from sheepfold_server.storage.log.errors import LogError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SYSTEM_CALLS = EVERY if os.environ.get("SHEEPFOLD_CRASH_AT") == "all" else CHANGES


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    folder = tmp_path_factory.mktemp("crashes")
    if reason := why_not(folder):
        require("strace", reason)
    with Crashing(folder) as given:
        yield given


def crashes(crashing: Crashing, scenario: str, tmp_path: Path) -> Iterator[Crash]:
    """Each try, and the undisturbed one at last."""
    before = tmp_path / "before"
    SCENARIOS[scenario][0](before)
    counted: Counter[str] = Counter()
    for crash in crashing.each_crash(scenario, before, SYSTEM_CALLS):
        yield crash
        counted[crash.system_call] += 1
    assert counted.pop("") == 1
    print(f"{scenario}: killed at {counted.total()} system calls: {dict(counted.most_common())}")
    assert counted.total() > 20, "hardly anything was killed"


# --- checkpoints -----------------------------------------------------------------------------------------


def check_save(crash: Crash) -> int:
    """The version that is found after a save of version 2 that was killed; saves version 3."""
    store = CheckpointStore(str(crash.directory), JOB)
    choice = store.newest_verified(LINEAGE)
    assert choice.index is not None, "no checkpoint is left"
    assert not choice.skipped, "a torn checkpoint has an index"
    assert_holds(store, choice.index, choice.index.version)
    assert choice.index.version >= max(crash.acknowledged, default=1), "an acknowledged checkpoint is lost"
    assert store.listing().indices[-1].version == 1
    store.verify(store.listing().indices[-1])
    third = save(store, 3, 2, SMALL)
    assert store.newest_verified(LINEAGE).index == third
    store.sweep(modified_before=2**40)
    assert not temporaries(crash.directory)
    return choice.index.version


def test_save_killed_at_any_system_call_leaves_the_older_or_the_newer_checkpoint(
    crashing: Crashing, tmp_path: Path
) -> None:
    found = [check_save(crash) for crash in crashes(crashing, "save_second", tmp_path)]
    assert found == sorted(found), "the older one up to some system call, and the newer one from there on"
    assert set(found) == {1, 2}


def test_retention_killed_at_any_system_call_leaves_the_newest_two(
    crashing: Crashing, tmp_path: Path
) -> None:
    left = set()
    for crash in crashes(crashing, "retain", tmp_path):
        store = CheckpointStore(str(crash.directory), JOB)
        indices = store.listing(LINEAGE).indices
        for index in indices:
            assert_holds(store, index, index.version)
        assert [index.version for index in indices[:2]] == [4, 3]
        left.add(len(indices))
        store.retain(2, LINEAGE)
        folders = {path.name for path in (crash.directory / JOB / LINEAGE).iterdir() if path.is_dir()}
        assert folders == {"3", "4"}, "the next call makes up for the one that died"
    assert left == {2, 3, 4}


# --- logs ------------------------------------------------------------------------------------------------


def check_log(crash: Crash) -> int:
    """How many records are found after appends that were killed; appends two more."""
    log, found = opened_log(crash.directory)
    first = log.next_sequence - len(found)
    assert first <= FORGOTTEN, "more is gone than was forgotten"
    assert found == [record(number) for number in range(first, log.next_sequence)]
    acknowledged = max(crash.acknowledged, default=2)
    assert acknowledged < log.next_sequence <= acknowledged + 2, "an acknowledged record is lost"
    for number in range(log.next_sequence, log.next_sequence + 2):
        text, payload = record(number)
        log.append(text, [payload])
    log.close()
    assert opened_log(crash.directory)[1][-3:] == [
        record(number) for number in range(log.next_sequence - 3, log.next_sequence)
    ]
    return log.next_sequence - 2


def test_log_killed_at_any_system_call_has_every_record_that_was_acknowledged(
    crashing: Crashing, tmp_path: Path
) -> None:
    """Over rotations into fresh and into used segments, and after a process that left its rubbish."""
    found = [check_log(crash) for crash in crashes(crashing, "append", tmp_path)]
    assert found == sorted(found)
    assert set(found) == set(range(3, RECORDS + 1))


# --- what these tests are able to see ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "check", "fault"),
    [
        ("save_index_first", check_save, "a torn checkpoint has an index"),
        ("append_acknowledged_first", check_log, "an acknowledged record is lost"),
        ("append_to_segments_named_first", check_log, "no header of a log segment"),
    ],
)
def test_wrong_order_of_system_calls_is_noticed(
    scenario: str, check: Callable[[Crash], int], fault: str, crashing: Crashing, tmp_path: Path
) -> None:
    for crash in crashes(crashing, scenario, tmp_path):
        try:
            check(crash)
        except (AssertionError, LogError) as error:
            if fault in str(error):
                return
            raise
    pytest.fail("not noticed")
