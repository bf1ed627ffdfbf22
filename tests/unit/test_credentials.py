"""`sheepfold certs` and `sheepfold token`, as a user runs them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.unit.test_cli import Outcome

from sheepfold_server.core.permissions import ALL_JOBS, Caller, Role
from sheepfold_server.shell.security import SecurityFiles, read_security
from sheepfold_server.shell.tokens import Grant, Use
from sheepfold_wire.connection import parse_connection

SHA = "ab" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    outcome = Outcome("certs", "--dir", str(tmp_path / "tls"), "--name", "10.0.0.5", "--name", "*.shards.lab")
    assert outcome.code == 0, outcome.stderr
    assert f"made {tmp_path}/tls/coordinator.pem, shard.pem and their keys, for 10.0.0.5, *.shards.lab" in (
        outcome.stdout
    )
    return tmp_path / "tls"


def granted(folder: Path, *arguments: str) -> Grant:
    outcome = Outcome("token", "--dir", str(folder), *arguments)
    assert outcome.code == 0, outcome.stderr
    verifier = read_security(SecurityFiles.in_folder(folder, "shard")).verifier
    assert verifier is not None
    return verifier.grant(outcome.stdout.strip())


def test_servers_can_use_what_certs_makes(folder: Path) -> None:
    for role in ("coordinator", "shard"):
        assert read_security(SecurityFiles.in_folder(folder, role)).has_tls


def test_second_time_makes_certificates_anew_and_keeps_ca_and_token_key(folder: Path) -> None:
    kept = {name: (folder / name).read_bytes() for name in ("ca.pem", "ca.key", "token.key", "token.pub")}
    before = (folder / "shard.pem").read_bytes()
    assert Outcome("certs", "--dir", str(folder), "--name", "gpu-3.lab").code == 0
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert (folder / "shard.pem").read_bytes() != before


@pytest.mark.parametrize("name", ["0.0.0.0", "10.0.0.5:7070", "a b", "*.*.lab", ""])
def test_name_that_no_server_is_reached_at_is_refused(tmp_path: Path, name: str) -> None:
    said = Outcome("certs", "--dir", str(tmp_path), "--name", name).refusal()
    assert said.startswith(f"sheepfold: --name {name}: give what a server is reached at, without a port")


def test_token_is_a_join_token_of_a_year_for_all_jobs_unless_told_otherwise(folder: Path) -> None:
    grant = granted(folder, "--role", "worker")
    assert (grant.caller, grant.use, grant.certificate) == (Caller(Role.WORKER), Use.JOIN, "")
    assert grant.expires_at - time.time() == pytest.approx(365 * 86_400, abs=120)


def test_token_says_what_was_asked_for(folder: Path) -> None:
    words = ["--role", "reader", "--job", "bert", "--subject", "ada", "--minutes", "20", "--certificate", SHA]
    grant = granted(folder, *words)
    assert (grant.caller, grant.use, grant.certificate) == (Caller(Role.READER, "bert", "ada"), Use.PASS, SHA)
    assert grant.expires_at - time.time() == pytest.approx(1200, abs=60)


def test_whole_line_is_what_a_worker_takes(folder: Path) -> None:
    outcome = Outcome("token", "--dir", str(folder), "--role", "worker", "--address", "10.0.0.5:7070")
    line = parse_connection(outcome.stdout)
    assert line.target == "10.0.0.5:7070"
    assert line.ca == read_security(SecurityFiles.in_folder(folder, "shard")).ca
    assert line.token


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--job", "no/job"], "--job no/job: give the name of a job"),
        (["--certificate", "ab"], "--certificate has 2 characters, give 64 hex digits"),
        (["--dir", "nowhere"], "--dir nowhere/token.key: it cannot be read"),
    ],
)
def test_token_that_cannot_be_made_is_refused_in_one_line(folder: Path, given: list[str], said: str) -> None:
    assert said in Outcome("token", "--dir", str(folder), "--role", "worker", *given).refusal()


@pytest.mark.parametrize("role", ["shard", "coordinator", "root"])
def test_no_token_is_made_for_roles_that_prove_themselves_otherwise(folder: Path, role: str) -> None:
    assert Outcome("token", "--dir", str(folder), "--role", role).code == 2


def test_all_jobs_are_not_a_name() -> None:
    with pytest.raises(AssertionError):
        granted(Path("tls"), "--role", "worker", "--job", ALL_JOBS)
