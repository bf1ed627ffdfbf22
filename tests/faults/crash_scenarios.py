"""What is killed at a system call: a process that forks a child for each try, which waits to be traced.

Run as a program, it takes lines `name directory` on its standard input. It forks, answers with the child's
number, lets the child begin when the next line comes, and answers in the end with the child's exit status and
what the child has acknowledged until then.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tests.unit.checkpointed import JOB, LINEAGE, SMALL, save

from sheepfold_server.storage.checkpoints import CheckpointStore, PartId
from sheepfold_server.storage.log import log as logs
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_server.storage.log.segment import create

Acknowledge = Callable[[int], None]
Scenario = Callable[[Path, Acknowledge], None]

OWNER = "shard 0 of 1, job j"
SEGMENT_BYTES = 16 << 10
RECORDS = 24
"""Each of 2 KB: three segments, the last of which was used before."""
FORGOTTEN = 10
PR_SET_PTRACER = 0x59616D61
ANY_PROCESS = ctypes.c_ulong(-1)


# --- checkpoints -----------------------------------------------------------------------------------------


def with_checkpoints(directory: Path, versions: int) -> CheckpointStore:
    store = CheckpointStore(str(directory), JOB)
    for version in range(1, versions + 1):
        save(store, version, 2, SMALL)
    return store


def save_second(directory: Path, acknowledge: Acknowledge) -> None:
    save(CheckpointStore(str(directory), JOB), 2, 2, SMALL)
    acknowledge(2)


def save_index_first(directory: Path, acknowledge: Acknowledge) -> None:
    """What must be seen to be wrong: an index that names files which come later."""
    store, elsewhere = CheckpointStore(str(directory), JOB), CheckpointStore(f"{directory}-elsewhere", JOB)
    index = save(elsewhere, 2, 2, SMALL)
    store._files.write(f"{JOB}/{LINEAGE}", lambda token: index.path, [index.to_bytes()])
    for shard in range(2):
        part = elsewhere.read_part(index, shard, 2)
        store.save_part(PartId(LINEAGE, 2, shard, 2, incarnation=5), part, {"job": JOB})
    acknowledge(2)


def retain(directory: Path, acknowledge: Acknowledge) -> None:
    CheckpointStore(str(directory), JOB).retain(2, LINEAGE)
    acknowledge(2)


# --- logs ------------------------------------------------------------------------------------------------


def record(number: int) -> tuple[str, bytes]:
    return f"record {number:6}", bytes([number % 251]) * 2000


def opened_log(directory: Path) -> tuple[RecordLog, list[tuple[str, bytes]]]:
    """A log that may be appended to, and what is in it."""
    log = RecordLog(directory, OWNER, SEGMENT_BYTES, is_synced=True)
    found = []
    for each in log.read():
        content = each.path.read_bytes()[each.payload_offset :]
        found.append((each.text, content[: each.header.payload_bytes]))
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


def append(directory: Path, acknowledge: Acknowledge) -> None:
    log, _ = opened_log(directory)
    for number in range(log.next_sequence, RECORDS):
        text, payload = record(number)
        log.append(text, [payload])
        acknowledge(number)
        if number == RECORDS // 2:
            log.forget_before(FORGOTTEN)


def append_acknowledged_first(directory: Path, acknowledge: Acknowledge) -> None:
    """What must be seen to be wrong."""
    log, _ = opened_log(directory)
    for number in range(log.next_sequence, RECORDS):
        acknowledge(number)
        text, payload = record(number)
        log.append(text, [payload])


def append_to_segments_named_first(directory: Path, acknowledge: Acknowledge) -> None:
    """What must be seen to be wrong: a segment that has its name before its first page."""

    def create_named(path: Path, length: int) -> int:
        descriptor = create(path, length)
        os.link(path, path.with_suffix(logs.SUFFIX))
        return descriptor

    logs.create = create_named  # type: ignore[attr-defined]
    append(directory, acknowledge)


# --- the process -----------------------------------------------------------------------------------------

SCENARIOS: dict[str, tuple[Callable[[Path], object], Scenario]] = {
    act.__name__: (prepare, act)
    for prepare, act in [
        (lambda directory: with_checkpoints(directory, 1), save_second),
        (lambda directory: with_checkpoints(directory, 1), save_index_first),
        (lambda directory: with_checkpoints(directory, 4), retain),
        (lambda directory: with_records(directory, 3), append),
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
        with os.fdopen(told[0]) as acknowledged:
            answer({"status": status, "acknowledged": [int(number) for number in acknowledged]})


def warm_up() -> None:
    """What the first call of anything imports is not what is tried."""
    folder = Path(tempfile.mkdtemp())
    for name in ("save_second", "retain", "append"):
        prepare, act = SCENARIOS[name]
        prepare(folder / name)
        act(folder / name, lambda number: None)
    shutil.rmtree(folder)


def run_traced(scenario: Scenario, directory: Path, gate: int, told: int) -> NoReturn:
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY_PROCESS, 0, 0, 0)
    os.read(gate, 1)
    status = 1
    try:
        scenario(directory, lambda number: os.write(told, b"%d\n" % number) and None)
        status = 0
    finally:
        os._exit(status)


def answer(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
