"""The record log: what was appended is read again, whatever happened; damage is never read over."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sheepfold_server.storage.log import log as logs
from sheepfold_server.storage.log import segment as segments
from sheepfold_server.storage.log import segment_file
from sheepfold_server.storage.log.errors import LogCorrupt, LogMismatch, RecordNotAppended
from sheepfold_server.storage.log.log import RecordLog
from sheepfold_server.storage.log.segment import PAGE_BYTES, read_payload

SEGMENT_BYTES = 16 << 10
OWNER = "shard 0 of 2, job j"


def opened(directory: Path, owner: str = OWNER, is_synced: bool = False) -> RecordLog:
    return RecordLog(directory, owner, SEGMENT_BYTES, is_synced)


def read(directory: Path, owner: str = OWNER) -> list[tuple[str, bytes]]:
    """(text, payload) of every record, by a log of its own."""
    return [(found.text, bytes(read_payload(found))) for found in opened(directory, owner).read()]


def written(directory: Path, records: list[tuple[str, bytes]], is_synced: bool = False) -> RecordLog:
    """As one process appends them."""
    log = opened(directory, is_synced=is_synced)
    assert sum(1 for _ in log.read()) >= 0
    for text, payload in records:
        log.append(text, [payload])
    return log


def records(count: int, first: int = 0, size: int = 688) -> list[tuple[str, bytes]]:
    """Texts and payloads that fill whole lines of 64 bytes as long as there are few: no byte is padding."""
    return [
        (f"record {i:8}", bytes([i % 256]) * (size + 64 * (i % 3) + 1)) for i in range(first, first + count)
    ]


def only_segment(directory: Path) -> Path:
    found = sorted(directory.glob("*.log"))
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("is_synced", [False, True])
def test_what_is_appended_is_read_again_in_order(is_synced: bool, tmp_path: Path) -> None:
    given = [*records(3), ("no payload", b""), *records(60, first=10)]
    written(tmp_path, given, is_synced).close()
    assert len(list(tmp_path.glob("*.log"))) > 1, "it spans segments"
    assert read(tmp_path) == given


def test_every_process_appends_to_a_segment_of_its_own(tmp_path: Path) -> None:
    for start in (0, 5, 10):
        written(tmp_path, records(5, first=start)).close()
    assert len(list(tmp_path.glob("*.log"))) == 3
    assert read(tmp_path) == records(15)


def test_record_larger_than_a_segment_has_one_to_itself(tmp_path: Path) -> None:
    given = [*records(2), ("large", os.urandom(5 * SEGMENT_BYTES)), *records(2, first=2)]
    written(tmp_path, given).close()
    assert read(tmp_path) == given


def test_payload_in_pieces_is_the_pieces_together(tmp_path: Path) -> None:
    log = written(tmp_path, [])
    log.append("pieces", [b"abc", bytearray(b"def"), memoryview(b"ghi")])
    assert read(tmp_path) == [("pieces", b"abcdefghi")]


def test_payload_that_was_written_ahead_is_the_next_record_s(tmp_path: Path) -> None:
    log = written(tmp_path, records(2))
    pieces = [b"a" * 5000, b"b" * 300]
    ahead = log.payload_ahead(5300)
    for piece in pieces:
        ahead.write(piece)
    assert read(tmp_path) == records(2), "without its header it is no record"
    before = only_segment(tmp_path).read_bytes()
    log.append("ahead", [b"x" * 5000, b"y" * 300], ahead)
    log.append("after", [b"z"])
    assert read(tmp_path) == [*records(2), ("ahead", b"".join(pieces)), ("after", b"z")]
    assert before.count(b"a" * 5000 + b"b" * 300) == 1, "it stood there before the record was appended"


@pytest.mark.parametrize("between", ["a record", "another payload ahead", "a short one", "a full segment"])
def test_payload_ahead_that_lost_its_place_is_written_with_its_record(between: str, tmp_path: Path) -> None:
    """What comes between takes the place; a mean gradient must never be read as another step's."""
    log = written(tmp_path, [])
    payload = b"p" * (SEGMENT_BYTES - 2 * PAGE_BYTES if between == "a full segment" else 5000)
    ahead = log.payload_ahead(len(payload))
    ahead.write(payload[:-1] if between == "a short one" else payload)
    given = [("the text" * (1000 if between == "a full segment" else 1), payload)]
    if between == "a record":
        given = [("note", b""), *given]
        log.append("note")
    if between == "another payload ahead":
        log.payload_ahead(5000).write(b"q" * 5000)
    log.append(given[-1][0], [payload], ahead)
    assert read(tmp_path) == given


def test_process_that_died_in_a_record_leaves_what_it_had_finished(tmp_path: Path) -> None:
    """Whatever prefix of the last record was written: it is cut, and the next process goes on."""
    log = written(tmp_path, records(3))
    path, end = only_segment(tmp_path), log._at
    content = path.read_bytes()
    log.append("torn", [b"x" * 300])
    torn = path.read_bytes()
    for reached in range(end, end + 400, 7):
        path.write_bytes(torn[:reached] + content[reached:])
        assert read(tmp_path)[:3] == records(3)
        assert [text for text, _ in read(tmp_path)[3:]] in ([], ["torn"])


def test_process_after_a_torn_record_is_not_disturbed_by_it(tmp_path: Path) -> None:
    log = written(tmp_path, records(3))
    end = log._at
    log.append("torn", [b"x" * 300])
    with only_segment(tmp_path).open("r+b") as file:
        file.seek(end + 100)
        file.write(b"\0" * 50)
    written(tmp_path, records(2, first=3)).close()
    assert read(tmp_path) == records(5)


@pytest.mark.parametrize("where", range(0, 2600, 13))
def test_flipped_bit_before_the_last_record_is_found_and_named(where: int, tmp_path: Path) -> None:
    log = written(tmp_path, records(3))
    last = log._at
    log.append("last", [b"y" * 100])
    path = only_segment(tmp_path)
    content = bytearray(path.read_bytes())
    at = PAGE_BYTES + where
    content[at] ^= 4
    path.write_bytes(content)
    if at >= last:  # the log then ends before it, as if it had never been finished
        assert read(tmp_path) in ([*records(3), ("last", b"y" * 100)], records(3))
    else:
        with pytest.raises(LogCorrupt, match=r"segment|record .* restore"):
            read(tmp_path)


def test_flipped_bit_in_the_first_page_is_found(tmp_path: Path) -> None:
    written(tmp_path, records(1)).close()
    path = only_segment(tmp_path)
    for at in range(0, 180, 9):
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)
        with pytest.raises((LogCorrupt, LogMismatch)):
            read(tmp_path)
        content[at] ^= 1
        path.write_bytes(content)


def test_missing_segment_is_found(tmp_path: Path) -> None:
    written(tmp_path, records(60)).close()
    sorted(tmp_path.glob("*.log"))[1].unlink()
    with pytest.raises(LogCorrupt, match="restore"):
        read(tmp_path)


def test_log_of_another_owner_is_refused_with_both_named(tmp_path: Path) -> None:
    written(tmp_path, records(1)).close()
    with pytest.raises(LogMismatch, match=r"is of shard 0 of 2, job j, expected is shard 1 of 2, job j"):
        read(tmp_path, "shard 1 of 2, job j")


def test_pages_of_another_start_of_the_machine_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without fsync a loss of power loses pages in any order: the log ends before the first hole."""
    written(tmp_path, records(4)).close()
    path = only_segment(tmp_path)
    content = bytearray(path.read_bytes())
    content[PAGE_BYTES + 900] ^= 1
    path.write_bytes(content)
    with pytest.raises(LogCorrupt):
        read(tmp_path)
    monkeypatch.setattr(segments, "boot_id", lambda: "another start")
    assert len(read(tmp_path)) < 4


def test_synced_pages_of_another_start_of_the_machine_may_not_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were on the disk: a hole is damage, and to end the log there would lose what was promised."""
    written(tmp_path, records(4), is_synced=True).close()
    path = only_segment(tmp_path)
    content = bytearray(path.read_bytes())
    content[PAGE_BYTES + 900] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(segments, "boot_id", lambda: "another start")
    with pytest.raises(LogCorrupt, match=r"record 1 .*expected .* found .*; restore"):
        read(tmp_path)


def test_other_level_of_durability_begins_a_segment(tmp_path: Path) -> None:
    """A segment says of all of its records whether they were synced."""
    log = written(tmp_path, records(2))
    for is_synced in (True, True, False):
        log.is_synced = is_synced
        log.append("more")
    heads = [segments.read_page(path) for path in sorted(tmp_path.glob("*.log"))]
    assert [(head.is_synced, head.first_sequence) for head in heads] == [(False, 0), (True, 2), (False, 4)]
    assert len(read(tmp_path)) == 5


def test_record_that_is_cut_is_told_and_room_that_was_never_used_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = written(tmp_path, records(3))
    end = log._at
    assert read(tmp_path) == records(3)
    assert not caplog.text
    log.append("torn", [b"x" * 300])
    with only_segment(tmp_path).open("r+b") as file:
        file.seek(end + 100)
        file.write(b"\0" * 50)
    assert read(tmp_path) == records(3)
    assert "record 3 at byte" in caplog.text
    assert "expected a payload with checksum" in caplog.text


def test_segment_that_a_restart_would_find_is_the_one_that_records_go_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name was there when the disk failed: a record in the one before would follow nothing then."""
    log = written(tmp_path, records(3), is_synced=True)
    with monkeypatch.context() as patch:
        refused = OSError(errno.EIO, "Input/output error")
        patch.setattr(logs, "sync_directory", fails(1, segments.sync_directory, refused))
        with pytest.raises(RecordNotAppended, match="Input/output"):
            log.append("large", [b"x" * SEGMENT_BYTES])
        assert log.append("small", [b"y"]) == 3
    log.append("next")
    assert read(tmp_path)[3:] == [("small", b"y"), ("next", b"")]


@pytest.mark.parametrize("is_synced", [True, False])
def test_record_that_is_read_is_durable_before_anybody_acts_on_it(
    is_synced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote it may have died before it was on the disk."""
    written(tmp_path, records(3), is_synced=is_synced).close()
    synced: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    assert read(tmp_path) == records(3)
    assert synced == ([str(only_segment(tmp_path))] if is_synced else [])


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_file_system_that_knows_no_holes_is_read_whole(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*arguments: object) -> int:
        raise OSError(error, os.strerror(error))

    written(tmp_path, records(3)).close()
    monkeypatch.setattr(os, "lseek", refuses)
    monkeypatch.setattr(os, "posix_fadvise", refuses)
    assert read(tmp_path) == records(3)
    with only_segment(tmp_path).open("r+b") as file:
        file.seek(PAGE_BYTES + 20)
        file.write(b"\0" * 30)
    with pytest.raises(LogCorrupt, match="follows"):
        read(tmp_path)


def test_room_that_was_never_used_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its end it is looked through for records that must not follow; most of its room is empty."""
    room = 40 * segment_file.READ_BYTES
    log = RecordLog(tmp_path, OWNER, room)
    list(log.read())
    for text, payload in records(3):
        log.append(text, [payload])
    log.close()
    counts = []

    def counted(fd: int, count: int, at: int) -> bytes:
        piece = pread(fd, count, at)
        counts.append(len(piece))
        return piece

    pread = os.pread
    monkeypatch.setattr(os, "pread", counted)
    assert read(tmp_path) == records(3)
    if not knows_holes(only_segment(tmp_path)):
        pytest.skip("this file system does not tell what was never written")
    assert sum(counts) < room / 10


def knows_holes(path: Path) -> bool:
    with path.open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < path.stat().st_size


def test_damaged_payload_that_another_record_follows_is_told_by_who_reads_it(tmp_path: Path) -> None:
    """A restart reads no payload twice, and none that it does not use."""
    written(tmp_path, records(3))
    damaged = list(opened(tmp_path).read())[1]
    with damaged.path.open("r+b") as file:
        file.seek(damaged.payload_offset)
        file.write(b"\0\0")
    first, second, third = opened(tmp_path).read()
    assert [bytes(read_payload(each)) for each in (first, third)] == [records(3)[i][1] for i in (0, 2)]
    with pytest.raises(LogCorrupt, match=r"payload of record 1 .*restore the file"):
        read_payload(second)


def test_segment_that_cannot_be_put_aside_leaves_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = written(tmp_path, records(60))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails(1, Path.rename, OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output"):
            log.forget_before(40)
        log.forget_before(40)
    found = read(tmp_path)
    assert found == records(len(found), 60 - len(found))
    assert len(found) < 60


def test_append_that_failed_names_the_log_and_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = written(tmp_path, records(1))
    monkeypatch.setattr(os, "pwrite", fails(1, os.pwrite, OSError(28, "No space left on device")))
    with pytest.raises(
        RecordNotAppended, match=r"record 1 .* found No space left on device; make room"
    ) as failed:
        log.append("more")
    assert failed.value.errno == 28
    assert str(tmp_path) in str(failed.value)


def test_what_is_forgotten_makes_room_and_is_not_read_again(tmp_path: Path) -> None:
    log = written(tmp_path, records(60))
    before = len(list(tmp_path.glob("*.log")))
    log.forget_before(40)
    log.append("after", [b"z"])
    found = read(tmp_path)
    assert len(list(tmp_path.glob("*.log"))) < before
    assert found[-1] == ("after", b"z")
    first = int(found[0][0].split()[1])
    assert 0 < first <= 40
    assert found[:-1] == records(60 - first, first)


def test_forgotten_segment_is_used_again_and_its_old_records_are_not_taken_for_new_ones(
    tmp_path: Path,
) -> None:
    log = written(tmp_path, records(60))
    inodes = {path.stat().st_ino for path in tmp_path.glob("*.log")}
    log.forget_before(50)
    more = records(25, first=60)
    for text, payload in more:
        log.append(text, [payload])
    assert {path.stat().st_ino for path in tmp_path.glob("*.log")} & inodes
    found = read(tmp_path)
    assert found[-25:] == more
    assert [int(text.split()[1]) for text, _ in found] == list(range(85 - len(found), 85))


def fails(on: int, real: Callable[..., object], error: OSError) -> Callable[..., object]:
    calls = 0

    def call(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == on:
            raise error
        return real(*arguments)

    return call


@pytest.mark.parametrize("on", [1, 2])
@pytest.mark.parametrize("function", ["pwrite", "fdatasync", "posix_fallocate", "fsync"])
def test_append_that_failed_can_be_repeated(
    function: str, on: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, say: nothing that was appended is lost, and nothing counts twice."""
    log = written(tmp_path, records(8), is_synced=True)
    real = getattr(os, function)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fails(on, real, OSError(28, "No space left on device")))
        done = 8
        while done < 40:
            text, payload = records(1, first=done)[0]
            try:
                log.append(text, [payload])
            except OSError:
                continue
            done += 1
    assert read(tmp_path) == records(40)


def test_append_before_reading_is_a_mistake_of_ours(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="read before"):
        opened(tmp_path).append("early")


def test_new_directories_are_durable_before_anything_is_written_into_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is on the disk only when the directory that holds it is synced."""
    synced: list[Path] = []
    monkeypatch.setattr(segments, "sync_directory", synced.append)
    segments.make_directory(tmp_path / "a" / "b" / "c")
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}
    segments.make_directory(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3
