"""The audit log: what is in it, and that nobody changes it unseen."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.test_cli import Outcome

from sheepfold_server.core.permissions import Caller, Role
from sheepfold_server.shell.auditing import REFUSALS_PER_SECOND, Auditor
from sheepfold_server.storage import audit
from sheepfold_server.storage.audit import START, AuditError, AuditLog, check_log

CALLER = Caller(Role.ADMIN, "bert", "ada")
STOP = SimpleNamespace(job="bert", action="stop", author="ada@host")
CONTROL = "/sheepfold.v1.CoordinatorService/Control"


def written(directory: Path, count: int = 5) -> Path:
    log = AuditLog(directory)
    for number in range(count):
        log.append({"call": "Control", "number": number})
    log.close()
    return directory / audit.NAME


def entries(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / audit.NAME).read_text().splitlines()]


def test_empty_log_is_whole(tmp_path: Path) -> None:
    written(tmp_path, 0)
    assert check_log(tmp_path) == audit.Checked(0, START)


def test_log_goes_on_where_the_last_process_ended(tmp_path: Path) -> None:
    written(tmp_path, 3)
    written(tmp_path, 2)
    assert check_log(tmp_path).lines == 5
    assert [each["number"] for each in entries(tmp_path)] == [0, 1, 2, 0, 1]


def test_log_is_for_its_owner_alone(tmp_path: Path) -> None:
    assert written(tmp_path).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("what", ["a value", "a line out", "a line twice", "lines swapped", "hash of a line"])
def test_what_is_changed_is_seen_and_where(tmp_path: Path, what: str) -> None:
    file = written(tmp_path)
    lines = file.read_text().splitlines()
    if what == "a value":
        lines[2] = lines[2].replace('"number":2', '"number":7')
    elif what == "a line out":
        del lines[2]
    elif what == "a line twice":
        lines.insert(2, lines[2])
    elif what == "lines swapped":
        lines[2], lines[3] = lines[3], lines[2]
    else:
        lines[2] = lines[2].replace('"hash":"', '"hash":"0')
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(AuditError, match=r"audit\.jsonl line [34]: it does not follow"):
        check_log(tmp_path)
    outcome = Outcome("audit", str(tmp_path))
    assert outcome.code == 1
    assert "does not follow" in outcome.stderr


@pytest.mark.parametrize(
    "line", ["[" * 100_000, "{}", "[]", "7", '{"hash"', "\x00", '{"hash":' + "9" * 5_000 + "}"]
)
def test_line_that_is_no_entry_is_named(tmp_path: Path, line: str) -> None:
    file = written(tmp_path)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(AuditError, match=r"audit\.jsonl line 3: it is no entry of an audit log"):
        check_log(tmp_path)
    file.write_text("\n".join([*lines, line]) + "\n")
    with pytest.raises(AuditError, match="no entry of an audit log"):
        check_log(tmp_path)


def test_every_flipped_bit_is_seen(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole, seed = file.read_bytes(), random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(300):
        broken = bytearray(whole)
        broken[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(broken)
        with pytest.raises(AuditError):
            check_log(tmp_path)


def test_lines_cut_off_at_the_end_change_the_newest_hash(tmp_path: Path) -> None:
    file = written(tmp_path)
    before = check_log(tmp_path)
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:-1]))
    after = check_log(tmp_path)
    assert (after.lines, after.newest_hash != before.newest_hash) == (4, True)


def test_torn_line_of_a_power_loss_is_cut_and_the_chain_goes_on(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_bytes(file.read_bytes()[:-7])
    written(tmp_path, 1)
    assert check_log(tmp_path).lines == 5


def test_log_whose_last_line_is_none_of_ours_is_not_continued(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_bytes(file.read_bytes() + b"nonsense\n")
    with pytest.raises(AuditError, match="its last line"):
        AuditLog(tmp_path)


def test_large_file_is_put_aside_and_the_chain_goes_through_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "FILE_BYTES_MAX", 300)
    written(tmp_path, 20)
    written(tmp_path, 20)
    aside = audit.put_aside(tmp_path)
    assert len(aside) > 10  # so that 10 must not come before 2
    assert check_log(tmp_path).lines == 40
    aside[3].unlink()
    with pytest.raises(AuditError):
        check_log(tmp_path)


def test_entry_that_cannot_be_written_whole_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog(tmp_path)
    log.append({"number": 1})
    write = os.write
    monkeypatch.setattr("os.write", lambda fd, line: write(fd, line[:9]))
    Auditor(log).called(CONTROL, CALLER, STOP, "peer", "ok")
    assert "the audit log cannot be written: " in caplog.text
    monkeypatch.undo()
    log.append({"number": 2})
    assert check_log(tmp_path).lines == 2


def test_entry_says_who_did_what_to_which_job_and_how_it_ended(tmp_path: Path) -> None:
    Auditor(AuditLog(tmp_path)).called(CONTROL, CALLER, STOP, "ipv4:10.0.0.9:4711", "ok")
    (entry,) = entries(tmp_path)
    assert entry.pop("at") > 1.7e9
    assert len(entry.pop("hash")) == 64
    assert entry == {
        "call": "Control",
        "job": "bert",
        "subject": "ada",
        "role": "admin",
        "for_job": "bert",
        "action": "stop",
        "author": "ada@host",
        "peer": "ipv4:10.0.0.9:4711",
        "result": "ok",
    }


@pytest.mark.parametrize(
    ("config", "job"),
    [('{"name": "new"}', "new"), ("{}", ""), ("[1]", ""), ("no JSON", ""), ("[" * 9999, "")],
)
def test_job_that_is_created_is_named_as_its_configuration_names_it(
    config: str, job: str, tmp_path: Path
) -> None:
    request = SimpleNamespace(request_id="1", config_json=config)
    method = "/sheepfold.v1.CoordinatorService/CreateJob"
    Auditor(AuditLog(tmp_path)).called(method, CALLER, request, "peer", "ok")
    assert entries(tmp_path)[0]["job"] == job


def test_calls_that_change_nothing_are_not_written(tmp_path: Path) -> None:
    for method in ("/sheepfold.v1.MonitorService/Status", "/sheepfold.v1.CoordinatorService/Heartbeat"):
        Auditor(AuditLog(tmp_path)).called(method, CALLER, STOP, "peer", "ok")
    assert entries(tmp_path) == []


def test_flood_of_refusals_is_counted_and_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_800_000_000.0]
    monkeypatch.setattr("sheepfold_server.shell.auditing.time.time", lambda: now[0])
    auditor = Auditor(AuditLog(tmp_path))
    for _ in range(1000):
        auditor.refused(CONTROL, "no token")
    assert len(entries(tmp_path)) == REFUSALS_PER_SECOND
    now[0] += 1
    auditor.refused(CONTROL, "no token")
    assert entries(tmp_path)[-2]["result"] == "990 more were refused within a second"


def test_command_tells_the_newest_hash(tmp_path: Path) -> None:
    written(tmp_path)
    outcome = Outcome("audit", str(tmp_path))
    assert outcome.code == 0
    assert outcome.stdout == (
        f"5 lines, each follows from those before it; newest hash {check_log(tmp_path).newest_hash}\n"
    )
    assert "cannot be read" in Outcome("audit", str(tmp_path / "nowhere")).refusal()
