"""What servers show and ask for: files of `up` and of users, read again later; where plain text may be."""

from __future__ import annotations

import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from tests.unit.test_cli import Outcome

from sheepfold_server.core.permissions import Role
from sheepfold_server.shell.certificates import RENEW_DAYS, SERVER_DAYS, keep_join_token, make_security
from sheepfold_server.shell.security import (
    Credentials,
    Security,
    SecurityFiles,
    check_listen,
    read_security,
    read_token,
)
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.tokens import JOIN_DAYS, Verifier
from sheepfold_wire.errors import TokenRefused

TOKEN = "a-token-of-twenty-letters"
LISTEN = "10.0.0.5:7070"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_security(tmp_path / "tls", ["10.0.0.5"])
    return tmp_path / "tls"


def of(folder: Path) -> SecurityFiles:
    return SecurityFiles.in_folder(folder, "coordinator")


def server_certificate(folder: Path, role: str = "coordinator") -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{role}.pem").read_bytes())


def names_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


# --- files of `sheepfold up` ----------------------------------------------------------------------------


def test_secrets_are_for_their_owner_alone(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert len(list(folder.iterdir())) == 8


def test_ca_and_join_tokens_outlive_a_restart_and_another_address(folder: Path) -> None:
    before, line = read_security(of(folder)), keep_join_token(folder, Role.WORKER, time.time())
    make_security(folder, ["gpu-3.lab"])
    after = read_security(of(folder))
    assert after.ca == before.ca
    assert keep_join_token(folder, Role.WORKER, time.time()) == line
    assert after.chain_pem != before.chain_pem


def test_join_token_is_made_anew_in_the_last_month_of_its_time(folder: Path) -> None:
    now = time.time()
    line = keep_join_token(folder, Role.READER, now)
    assert keep_join_token(folder, Role.READER, now + (JOIN_DAYS - RENEW_DAYS - 1) * 86_400) == line
    assert keep_join_token(folder, Role.READER, now + (JOIN_DAYS - RENEW_DAYS) * 86_400 + 2) != line


def test_two_directories_have_nothing_in_common(folder: Path, tmp_path: Path) -> None:
    make_security(tmp_path / "other", ["10.0.0.5"])
    one, other = (read_security(of(each)) for each in (folder, tmp_path / "other"))
    assert one.ca != other.ca
    assert one.verifier is not None
    with pytest.raises(TokenRefused):
        one.verifier.grant(keep_join_token(tmp_path / "other", Role.WORKER, time.time()))
    assert other.verifier is not None


def test_each_server_has_a_certificate_of_its_own_role(folder: Path) -> None:
    for role in ("coordinator", "shard"):
        uris = names_of(server_certificate(folder, role)).get_values_for_type(x509.UniformResourceIdentifier)
        assert uris == [f"spiffe://sheepfold/{role}"]


def test_certificate_is_for_the_address_and_this_machine(folder: Path) -> None:
    names = names_of(server_certificate(folder))
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "10.0.0.5"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    make_security(folder, ["gpu-3.lab"])
    names = names_of(server_certificate(folder))
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "gpu-3.lab"]


def test_each_start_makes_a_certificate_of_two_years_within_the_cas(folder: Path) -> None:
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    now = datetime(2030, 1, 1, tzinfo=UTC)
    make_security(folder, ["10.0.0.5"], now)
    assert server_certificate(folder).not_valid_after_utc == now + timedelta(days=SERVER_DAYS)
    make_security(folder, ["10.0.0.5"], ca.not_valid_after_utc - timedelta(days=9))
    assert server_certificate(folder).not_valid_after_utc == ca.not_valid_after_utc


def test_ca_at_its_end_is_refused_with_what_to_do(folder: Path) -> None:
    with pytest.raises(StartError, match=r"its CA ended on .*remove that folder"):
        make_security(folder, ["10.0.0.5"], datetime.now(UTC) + timedelta(days=4000))


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_damaged_ca_is_refused_and_left_alone(folder: Path, name: str) -> None:
    (folder / name).write_text("nonsense")
    with pytest.raises(StartError, match="remove that folder"):
        make_security(folder, ["10.0.0.5"])
    assert (folder / name).read_text() == "nonsense"


def test_key_of_another_ca_is_refused(folder: Path, tmp_path: Path) -> None:
    make_security(tmp_path / "other", ["10.0.0.5"])
    (folder / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(StartError, match="not the key of"):
        make_security(folder, ["10.0.0.5"])


# --- files of a user ------------------------------------------------------------------------------------


def test_chain_is_served_with_its_ca_once(folder: Path) -> None:
    """Clients look for the CA there; `up` has it in server.pem already, a user's file need not."""
    files = of(folder)
    own = server_certificate(folder)
    (folder / "own.pem").write_bytes(
        (folder / "coordinator.pem").read_bytes().split(b"-----END", 1)[0] + b"-----END CERTIFICATE-----\n"
    )
    for certificate in (folder / "coordinator.pem", folder / "own.pem"):
        given = read_security(SecurityFiles(certificate, files.key, files.ca))
        assert x509.load_pem_x509_certificates(given.chain_pem) == [
            own,
            x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()),
        ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": None}, "give --tls-cert, --tls-key and --tls-ca together"),
        ({"ca": None}, "give --tls-cert, --tls-key and --tls-ca together"),
        ({"ca": "coordinator.pem"}, r"--tls-ca .*: 2 certificates in it, give 1 as PEM"),
        ({"certificate": "token.pub"}, r"--tls-cert .*: 0 certificates in it"),
        ({"key": "ca.key"}, r"is not the key of"),
        ({"key": "nowhere"}, r"it cannot be read"),
        ({"token_keys": "nowhere"}, r"--token-keys .*: it cannot be read \(No such file"),
        ({"token_keys": "ca.pem"}, r"--token-keys .*: give one or more public Ed25519 keys .*none in it"),
        ({"token_signer": "token.pub"}, r"--token-signer .*: it holds no private Ed25519 key"),
        ({"token_signer": "ca.key"}, r"--token-signer .*: it holds no private Ed25519 key .*no Ed25519 key"),
    ],
)
def test_files_that_do_not_fit_are_refused(folder: Path, change: dict[str, str | None], said: str) -> None:
    names: dict[str, str | None] = {
        "certificate": "coordinator.pem",
        "key": "coordinator.key",
        "ca": "ca.pem",
        "token_keys": "token.pub",
        "token_signer": "token.key",
    }
    paths = {key: None if name is None else folder / name for key, name in (names | change).items()}
    with pytest.raises(StartError, match=said):
        read_security(SecurityFiles(**paths))


def test_token_is_read_without_its_line_end_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\r\n")
    assert read_token(tmp_path / "token") == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN} {TOKEN}")
    with pytest.raises(StartError) as refused:
        read_token(tmp_path / "token")
    assert TOKEN not in str(refused.value)


# --- where ----------------------------------------------------------------------------------------------


def test_beyond_loopback_it_takes_tls_and_a_token_or_a_word() -> None:
    asks = Verifier([])
    check_listen(LISTEN, False, Security(b"x", verifier=asks))
    check_listen(LISTEN, True, Security())
    check_listen("127.0.0.1:0", False, Security(verifier=asks))
    for half in (Security(), Security(b"x"), Security(verifier=asks)):
        with pytest.raises(StartError, match="--tls-cert, --tls-key, --tls-ca and --token-keys"):
            check_listen(LISTEN, False, half)


def test_token_in_plain_text_beyond_loopback_is_refused_even_if_asked_for() -> None:
    with pytest.raises(StartError, match="tokens would cross the network in plain text"):
        check_listen(LISTEN, True, Security(verifier=Verifier([])))


def test_role_with_half_of_its_files_says_which_are_missing(folder: Path) -> None:
    outcome = Outcome(
        "coordinator",
        "--shards",
        "1",
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        str(folder / "coordinator.pem"),
    )
    assert "together" in outcome.refusal()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--token-keys", "token.pub"], "give --token-keys and --servers-listen HOST:PORT together"),
        (["--servers-listen", "127.0.0.1:0"], "give --token-keys and --servers-listen HOST:PORT together"),
        (
            ["--token-keys", "token.pub", "--servers-listen", "127.0.0.1:0"],
            "--servers-listen asks for certificates",
        ),
    ],
)
def test_coordinator_that_asks_for_tokens_needs_an_address_for_shards(
    folder: Path, given: list[str], said: str
) -> None:
    words = [str(folder / word) if word == "token.pub" else word for word in given]
    assert said in Outcome("coordinator", "--shards", "1", "--listen", "127.0.0.1:0", *words).refusal()


# --- again ----------------------------------------------------------------------------------------------


def later(file: Path) -> None:
    """As if it had been written a second after the last time."""
    at = file.stat().st_mtime_ns + 1_000_000_000
    os.utime(file, ns=(at, at))


@pytest.fixture
def credentials(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Credentials:
    monkeypatch.setattr("sheepfold_server.shell.security.LOOK_SECONDS", 0.0)
    return Credentials(read_security(of(folder)))


def test_files_that_stay_are_not_read_again(credentials: Credentials) -> None:
    assert credentials.current() is credentials.current()


def test_new_certificate_is_taken_up(folder: Path, credentials: Credentials) -> None:
    before = credentials.current()
    make_security(folder, ["10.0.0.6"])
    later(folder / "coordinator.pem")
    assert credentials.current().chain_pem != before.chain_pem
    assert credentials.current().chain_pem.startswith((folder / "coordinator.pem").read_bytes()[:200])


def test_half_of_a_change_leaves_the_old_until_the_other_half_is_there(
    folder: Path, credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    before, key = credentials.current(), (folder / "coordinator.key").read_bytes()
    make_security(folder, ["10.0.0.6"])
    fresh = (folder / "coordinator.key").read_bytes()
    (folder / "coordinator.key").write_bytes(key)
    assert credentials.current() is before
    assert "certificates and keys stay as they were" in caplog.text
    (folder / "coordinator.key").write_bytes(fresh)
    later(folder / "coordinator.key")
    assert credentials.current().key_pem == fresh


def test_key_that_is_taken_out_takes_its_tokens_along(
    folder: Path, tmp_path: Path, credentials: Credentials
) -> None:
    make_security(tmp_path / "next", ["10.0.0.5"])
    old, new = (keep_join_token(each, Role.WORKER, time.time()) for each in (folder, tmp_path / "next"))
    keys = [(each / "token.pub").read_bytes() for each in (folder, tmp_path / "next")]
    taken = {}
    for name, content in (("both", b"".join(keys)), ("new", keys[1])):
        (folder / "token.pub").write_bytes(content)
        later(folder / "token.pub")
        taken[name] = [token for token in (old, new) if takes(credentials, token)]
    assert taken == {"both": [old, new], "new": [new]}


def takes(credentials: Credentials, token: str) -> bool:
    verifier = credentials.current().verifier
    assert verifier is not None
    try:
        verifier.grant(token)
    except TokenRefused:
        return False
    return True
