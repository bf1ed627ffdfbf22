"""What servers show and ask for: files of `up` and of users, where plain text may be, the check of tokens."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from tests.unit.test_cli import Outcome

from sheepfold_server.shell.certificates import SERVER_DAYS, make_security
from sheepfold_server.shell.security import (
    Security,
    SecurityFiles,
    check_listen,
    read_security,
    read_token,
)
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.token_check import refusal
from sheepfold_wire.errors import Action, TokenRefused

TOKEN = "a-token-of-twenty-letters"
LISTEN = "10.0.0.5:7070"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_security(tmp_path / "tls", "10.0.0.5")
    return tmp_path / "tls"


def server_certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())


# --- files of `sheepfold up` ----------------------------------------------------------------------------


def test_secrets_are_for_their_owner_alone(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert len(list(folder.iterdir())) == 5


def test_ca_and_token_outlive_a_restart_and_another_address(folder: Path) -> None:
    before = read_security(SecurityFiles.in_folder(folder))
    make_security(folder, "gpu-3.lab")
    after = read_security(SecurityFiles.in_folder(folder))
    assert (after.ca, after.token) == (before.ca, before.token)
    assert after.chain_pem != before.chain_pem


def test_two_directories_have_nothing_in_common(folder: Path, tmp_path: Path) -> None:
    make_security(tmp_path / "other", "10.0.0.5")
    one, other = (read_security(SecurityFiles.in_folder(each)) for each in (folder, tmp_path / "other"))
    assert one.ca != other.ca
    assert one.token != other.token


def test_certificate_is_for_the_address_and_this_machine(folder: Path) -> None:
    names = server_certificate(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "10.0.0.5"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    make_security(folder, "gpu-3.lab")
    names = server_certificate(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "gpu-3.lab"]


def test_each_start_makes_a_certificate_of_two_years_within_the_cas(folder: Path) -> None:
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    now = datetime(2030, 1, 1, tzinfo=UTC)
    make_security(folder, "10.0.0.5", now)
    assert server_certificate(folder).not_valid_after_utc == now + timedelta(days=SERVER_DAYS)
    make_security(folder, "10.0.0.5", ca.not_valid_after_utc - timedelta(days=9))
    assert server_certificate(folder).not_valid_after_utc == ca.not_valid_after_utc


def test_ca_at_its_end_is_refused_with_what_to_do(folder: Path) -> None:
    with pytest.raises(StartError, match=r"its CA ended on .*remove that folder"):
        make_security(folder, "10.0.0.5", datetime.now(UTC) + timedelta(days=4000))


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_damaged_ca_is_refused_and_left_alone(folder: Path, name: str) -> None:
    (folder / name).write_text("nonsense")
    with pytest.raises(StartError, match="remove that folder"):
        make_security(folder, "10.0.0.5")
    assert (folder / name).read_text() == "nonsense"


def test_key_of_another_ca_is_refused(folder: Path, tmp_path: Path) -> None:
    make_security(tmp_path / "other", "10.0.0.5")
    (folder / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(StartError, match="not the key of"):
        make_security(folder, "10.0.0.5")


# --- files of a user ------------------------------------------------------------------------------------


def test_chain_is_served_with_its_ca_once(folder: Path) -> None:
    """Clients look for the CA there; `up` has it in server.pem already, a user's file need not."""
    files = SecurityFiles.in_folder(folder)
    own = server_certificate(folder)
    (folder / "own.pem").write_bytes(
        (folder / "server.pem").read_bytes().split(b"-----END", 1)[0] + b"-----END CERTIFICATE-----\n"
    )
    for certificate in (folder / "server.pem", folder / "own.pem"):
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
        ({"ca": "server.pem"}, r"--tls-ca .*: 2 certificates in it, give 1 as PEM"),
        ({"certificate": "token"}, r"--tls-cert .*: 0 certificates in it"),
        ({"key": "ca.key"}, r"is not the key of"),
        ({"key": "nowhere"}, r"it cannot be read"),
        ({"token": "nowhere"}, r"--token-file .*: it cannot be read \(No such file"),
        ({"token": "ca.pem"}, r"a token has 16 to 512 letters, digits, - _ \. ~, this one \d+ characters"),
    ],
)
def test_files_that_do_not_fit_are_refused(folder: Path, change: dict[str, str | None], said: str) -> None:
    names: dict[str, str | None] = {
        "certificate": "server.pem",
        "key": "server.key",
        "ca": "ca.pem",
        "token": "token",
    }
    paths = {key: None if name is None else folder / name for key, name in (names | change).items()}
    with pytest.raises(StartError, match=said):
        read_security(SecurityFiles(**paths))


def test_token_is_read_without_its_line_end_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\r\n")
    assert read_token(tmp_path / "token") == TOKEN
    assert TOKEN not in repr(Security(token=TOKEN))
    (tmp_path / "token").write_text(f"{TOKEN} {TOKEN}")
    with pytest.raises(StartError) as refused:
        read_token(tmp_path / "token")
    assert TOKEN not in str(refused.value)


# --- where ----------------------------------------------------------------------------------------------


def test_beyond_loopback_it_takes_tls_and_a_token_or_a_word() -> None:
    tls, token = {"chain_pem": b"x"}, {"token": TOKEN}
    check_listen(LISTEN, False, Security(**tls, **token))  # type: ignore[arg-type]
    check_listen(LISTEN, True, Security())
    check_listen("127.0.0.1:0", False, Security(**token))  # type: ignore[arg-type]
    for half in (Security(), Security(b"x"), Security(token=TOKEN)):
        with pytest.raises(StartError, match="--tls-cert, --tls-key, --tls-ca and --token-file"):
            check_listen(LISTEN, False, half)


def test_token_in_plain_text_beyond_loopback_is_refused_even_if_asked_for() -> None:
    with pytest.raises(StartError, match="the token would cross the network in plain text"):
        check_listen(LISTEN, True, Security(token=TOKEN))


def test_role_with_half_of_its_files_says_which_are_missing(folder: Path) -> None:
    outcome = Outcome(
        "coordinator", "--shards", "1", "--listen", "127.0.0.1:0", "--tls-cert", str(folder / "server.pem")
    )
    assert "together" in outcome.refusal()


# --- tokens ---------------------------------------------------------------------------------------------

RIGHT = ("authorization", f"Bearer {TOKEN}")


def test_right_token_passes_and_health_needs_none() -> None:
    assert refusal("/sheepfold.v1.ShardService/Push", (("x", "y"), RIGHT), TOKEN) is None
    assert refusal("/grpc.health.v1.Health/Check", (), TOKEN) is None


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ((), "carries no token"),
        (None, "carries no token"),
        ((("authorization", f"Bearer {TOKEN[:-1]}"),), "is not that of this server"),
        ((("authorization", TOKEN),), "is not that of this server"),
        ((("authorization", f"Basic {TOKEN}"),), "is not that of this server"),
        ((("authorization", "Bearer "),), "is not that of this server"),
        ((("authorization", "Bearer \xff\u20ac"),), "is not that of this server"),
        ((RIGHT, RIGHT), "is not that of this server"),
    ],
)
def test_any_other_is_refused_for_good_and_not_repeated_in_the_answer(metadata: object, said: str) -> None:
    found = refusal("/sheepfold.v1.CoordinatorService/Attach", metadata, TOKEN)
    assert isinstance(found, TokenRefused)
    assert said in str(found)
    assert TOKEN[:-1] not in str(found)
    assert found.action is Action.STOP


@pytest.mark.parametrize(
    "method", ["/grpc.health.v1.HealthX/Check", "/sheepfold.v1.X/grpc.health.v1.Health/", ""]
)
def test_only_the_health_service_is_open(method: str) -> None:
    assert refusal(method, (), TOKEN) is not None
