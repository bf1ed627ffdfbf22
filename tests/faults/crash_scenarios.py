"""What is killed at a system call: a process that forks a child for each try, which waits to be traced.

Run as a program, it takes lines `name directory` on its standard input. It forks, answers with the child's
number, lets the child begin when the next line comes, and answers in the end with the child's exit status and
what the child has told until then: a number acknowledges, a text is an error.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from tests.faults.tracing import let_be_traced
from tests.unit.checkpointed import JOB, LINEAGE, SMALL, save

from sheepfold_server.storage.checkpoints import CheckpointNotStored, CheckpointStore, PartId
from sheepfold_server.storage.log import log as logs
from sheepfold_server.storage.log.errors import LogError
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_server.storage.log.reading import SUFFIX
from sheepfold_server.storage.log.segment import create, read_payload

T = TypeVar("T")
Tell = Callable[[int | str], None]
Scenario = Callable[[Path, Tell], None]

OWNER = "shard 0 of 1, job j"
SEGMENT_BYTES = 16 << 10
RECORDS = 24
"""Each of 2 KB: three segments, the last of which was used before."""
FORGOTTEN = 10
TRIES = 3


# --- checkpoints -----------------------------------------------------------------------------------------


def with_checkpoints(directory: Path, versions: int) -> CheckpointStore:
    store = CheckpointStore(str(directory), JOB)
    for version in range(1, versions + 1):
        save(store, version, 2, SMALL)
    return store


def save_second(directory: Path, tell: Tell) -> None:
    save(CheckpointStore(str(directory), JOB), 2, 2, SMALL)
    tell(2)


def save_index_first(directory: Path, tell: Tell) -> None:
    """What must be seen to be wrong: an index that names files which come later."""
    store, elsewhere = CheckpointStore(str(directory), JOB), CheckpointStore(f"{directory}-elsewhere", JOB)
    index = save(elsewhere, 2, 2, SMALL)
    store._files.write(f"{JOB}/{LINEAGE}", lambda token: index.path, [index.to_bytes()])
    for shard in range(2):
        part = elsewhere.read_part(index, shard, 2)
        store.save_part(PartId(LINEAGE, 2, shard, 2, incarnation=5), part, {"job": JOB})
    tell(2)


def save_stubbornly(directory: Path, tell: Tell) -> None:
    stubbornly(lambda: save(CheckpointStore(str(directory), JOB), 2, 2, SMALL), tell)
    tell(2)


class GaveUp(Exception):
    """No try succeeded."""


def stubbornly(act: Callable[[], T], tell: Tell) -> T:
    """Errors are told; the same again."""
    for _ in range(TRIES):
        try:
            return act()
        except (CheckpointNotStored, OSError, LogError) as error:
            tell(str(error))
    raise GaveUp


def restore(directory: Path, tell: Tell) -> None:
    store = CheckpointStore(str(directory), JOB)
    choice = store.newest_verified(LINEAGE)
    for problem in choice.skipped:
        tell(problem.reason)
    if choice.index is not None:
        store.read_part(choice.index, 0, 1)
        tell(choice.index.version)


def retain(directory: Path, tell: Tell) -> None:
    CheckpointStore(str(directory), JOB).retain(2, LINEAGE)
    tell(2)


# --- logs ------------------------------------------------------------------------------------------------


def record(number: int) -> tuple[str, bytes]:
    return f"record {number:6}", bytes([number % 251]) * 2000


def opened_log(directory: Path) -> tuple[RecordLog, list[tuple[str, bytes]]]:
    """A log that may be appended to, and what is in it."""
    log = RecordLog(directory, OWNER, SEGMENT_BYTES, is_synced=True)
    found = []
    for each in log.read():
        found.append((each.text, bytes(read_payload(each))))
    return log, found


def with_records(directory: Path, count: int) -> None:
    """A log of an earlier process, which died while it made one segment and kept another."""
    log, _ = opened_log(directory)
    for number in range(count):
        text, payload = record(number)
        log.append(text, [payload])
    log.close()
    (directory / "00000007.new").write_bytes(b"half a page")
    (directory / "00000008.spare").write_bytes(bytes(SEGMENT_BYTES))


def append(directory: Path, tell: Tell) -> None:
    log, _ = opened_log(directory)
    for number in range(log.next_sequence, RECORDS):
        text, payload = record(number)
        log.append(text, [payload])
        tell(number)
        if number == RECORDS // 2:
            log.forget_before(FORGOTTEN)


def append_stubbornly(directory: Path, tell: Tell) -> None:
    log, _ = stubbornly(lambda: opened_log(directory), tell)
    for number in range(log.next_sequence, RECORDS):
        text, payload = record(number)
        stubbornly(partial(log.append, text, [payload]), tell)
        tell(number)
        if number == RECORDS // 2:
            stubbornly(lambda: log.forget_before(FORGOTTEN), tell)


def read_log(directory: Path, tell: Tell) -> None:
    try:
        tell(opened_log(directory)[0].next_sequence)
    except LogError as error:
        tell(str(error))


def append_acknowledged_first(directory: Path, tell: Tell) -> None:
    """What must be seen to be wrong."""
    log, _ = opened_log(directory)
    for number in range(log.next_sequence, RECORDS):
        tell(number)
        text, payload = record(number)
        log.append(text, [payload])


def append_to_segments_named_first(directory: Path, tell: Tell) -> None:
    """What must be seen to be wrong: a segment that has its name before its first page."""

    def create_named(path: Path, length: int) -> int:
        descriptor = create(path, length)
        os.link(path, path.with_suffix(SUFFIX))
        return descriptor

    logs.create = create_named  # type: ignore[attr-defined]
    append(directory, tell)


# --- the process -----------------------------------------------------------------------------------------

SCENARIOS: dict[str, tuple[Callable[[Path], object], Scenario]] = {
    act.__name__: (prepare, act)
    for prepare, act in [
        (lambda directory: with_checkpoints(directory, 1), save_second),
        (lambda directory: with_checkpoints(directory, 1), save_index_first),
        (lambda directory: with_checkpoints(directory, 1), save_stubbornly),
        (lambda directory: with_checkpoints(directory, 2), restore),
        (lambda directory: with_checkpoints(directory, 4), retain),
        (lambda directory: with_records(directory, 3), append),
        (lambda directory: with_records(directory, RECORDS // 2), append_stubbornly),
        (lambda directory: with_records(directory, RECORDS), read_log),
        (lambda directory: with_records(directory, 3), append_acknowledged_first),
        (lambda directory: with_records(directory, 3), append_to_segments_named_first),
    ]
}
"""Name -> (what there is before, what is killed)."""


def main() -> None:
    warm_up()
    for line in sys.stdin:
        name, directory = line.rstrip("\n").split(maxsplit=1)
        gate, told = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            run_traced(SCENARIOS[name][1], Path(directory), gate[0], told[1])
        answer(child)
        sys.stdin.readline()
        os.write(gate[1], b"!")
        _, status = os.waitpid(child, 0)
        for end in (*gate, told[1]):
            os.close(end)
        with os.fdopen(told[0]) as lines:
            answer({"status": status, "told": [json.loads(line) for line in lines]})


def warm_up() -> None:
    """What the first call of anything imports is not what is tried."""
    folder = Path(tempfile.mkdtemp())
    for name in ("save_stubbornly", "restore", "retain", "append_stubbornly"):
        prepare, act = SCENARIOS[name]
        prepare(folder / name)
        act(folder / name, lambda told: None)
    shutil.rmtree(folder)


def run_traced(scenario: Scenario, directory: Path, gate: int, told: int) -> NoReturn:
    let_be_traced()
    os.read(gate, 1)
    status = 1
    try:
        with suppress(GaveUp):
            scenario(directory, lambda value: write_line(told, json.dumps(value)))
        status = 0
    finally:
        os._exit(status)


def write_line(descriptor: int, text: str) -> None:
    """Again where an error was injected: what is told is no part of what is tried."""
    try:
        os.write(descriptor, text.encode() + b"\n")
    except OSError:
        os.write(descriptor, text.encode() + b"\n")


def answer(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
