"""sheepfold_server.cli.support: what a bundle holds, and that it holds no secret."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from sheepfold_server.cli.support.collect import (
    LOG_BYTES_MAX,
    Entry,
    machine,
    secrets_of,
    state_directory,
)
from sheepfold_server.cli.support.command import write
from sheepfold_server.cli.support.masks import masked_environment, masked_text

TOKEN = "s3cr3t-t0ken_of.this~server"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"sheepfold://h:7070?ca=sha256:ab&token={TOKEN}", "sheepfold://h:7070?ca=sha256:ab&token=***"),
        (f"authorization: Bearer {TOKEN}", "authorization: Bearer ***"),
        (f'"api_key": "{TOKEN}", "steps": 3', '"api_key": "***", "steps": 3'),
        ("http://ann:pass@proxy:3128/x", "http://***@proxy:3128/x"),
        ("AWS_SECRET_ACCESS_KEY=abc/def+1", "AWS_SECRET_ACCESS_KEY=***"),
        ("a\n-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nb", "a\n***\nb"),
        (f"it said {TOKEN}.", "it said ***."),
    ],
)
def test_secrets_are_masked_wherever_they_stand(text: str, shown: str) -> None:
    assert masked_text(text, (TOKEN,)) == shown


@pytest.mark.parametrize(
    "text", ["step 3 of lenet, weight = tokens", "1,024 tokens per second", "key 7 is up"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked_text(text, ("short",)) == text


def test_only_our_variables_are_told_and_secret_ones_by_name_alone() -> None:
    environ = {
        "SHEEPFOLD": f"sheepfold://h?token={TOKEN}",
        "SHEEPFOLD_TOKEN": "abc",
        "HOME": "/x",
        "RANK": "0",
    }
    assert masked_environment(environ, ("SHEEPFOLD", "RANK")) == {
        "RANK": "0",
        "SHEEPFOLD": "sheepfold://h?token=***",
        "SHEEPFOLD_TOKEN": "***",
    }


def test_the_machine_tells_versions() -> None:
    told = json.loads(machine().text)
    assert {"grpcio", "torch", "numpy"} <= {name.lower() for name in told["packages"]}


def test_logs_come_with_their_end_and_without_the_token(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "worker.token").write_text(f"{TOKEN}\n")
    (tmp_path / "tls" / "empty.token").write_text("\n")
    (tmp_path / "tls" / "server.key").write_text("key")
    (tmp_path / "up.json").write_text("{}")
    (tmp_path / "logs" / "shard-0.log").write_text("x" * 80 + "\n" + ("y" * 79 + "\n") * 20_000 + TOKEN)
    entries = {entry.name: entry for entry in state_directory(tmp_path, secrets_of(tmp_path))}
    assert entries.keys() == {"state/up.json", "state/logs/shard-0.log"}
    log = entries["state/logs/shard-0.log"]
    assert log.size_bytes <= LOG_BYTES_MAX + 100
    assert log.text.startswith("(the first 551,")
    assert log.text.endswith("y\n***")


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    (entry,) = state_directory(tmp_path / "nowhere", ())
    assert entry.text == "nowhere: no such directory; name it with --dir\n"


def test_the_archive_holds_the_entries_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"
    write(file, [Entry("a/b.txt", "größe\n")])
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        (member,) = archive.getmembers()
        content = archive.extractfile(member)
        assert content is not None
        assert (member.name, content.read().decode()) == ("sheepfold-support/a/b.txt", "größe\n")
