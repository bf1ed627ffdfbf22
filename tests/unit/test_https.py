"""Where the dashboard may serve without TLS or a login, and which files it takes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.test_cli import Outcome

from sheepfold_server.shell.https import HttpCallers, check_http_listen, read_https
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.tokens import private_pem

LOOPBACK, ELSEWHERE = "127.0.0.1:8070", "10.0.0.5:8070"
PLAIN, OPEN, CROSSING, PROXY = (
    "in plain text",
    "open to everyone",
    "tokens would cross",
    "--behind-proxy is for",
)


@pytest.mark.parametrize(
    ("listen", "given", "refusal"),
    [
        (LOOPBACK, "", ""),
        (LOOPBACK, "tls", ""),
        (LOOPBACK, "login", ""),
        (LOOPBACK, "tls login", ""),
        (LOOPBACK, "insecure", ""),
        (LOOPBACK, "login behind_proxy", ""),
        (LOOPBACK, "behind_proxy", PROXY),
        (ELSEWHERE, "", PLAIN),
        (ELSEWHERE, "login", PLAIN),
        (ELSEWHERE, "tls", OPEN),
        (ELSEWHERE, "tls login", ""),
        (ELSEWHERE, "insecure", ""),
        (ELSEWHERE, "tls insecure", ""),
        (ELSEWHERE, "login insecure", CROSSING),
        (ELSEWHERE, "login behind_proxy", ""),
        (ELSEWHERE, "behind_proxy", PROXY),
        (ELSEWHERE, "login behind_proxy insecure", PROXY),
        (ELSEWHERE, "tls login behind_proxy", PROXY),
        ("0.0.0.0:8070", "", PLAIN),
        ("[::]:8070", "login", PLAIN),
    ],
)
def test_beyond_loopback_it_needs_tls_and_a_login_or_says_so(listen: str, given: str, refusal: str) -> None:
    words = given.split()
    with pytest.raises(StartError, match=refusal) if refusal else nullcontext():
        check_http_listen(
            listen,
            "insecure" in words,
            "behind_proxy" in words,
            has_tls="tls" in words,
            has_login="login" in words,
        )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--listen", "10.0.0.5:8070"], "the dashboard would be in plain text"),
        (["--tls-cert", "nothing.pem"], "give --tls-cert and --tls-key together"),
        (["--behind-proxy"], "give --token-keys"),
        (["--token-keys", "nothing.pub"], "--token-keys nothing.pub: it cannot be read"),
    ],
)
def test_command_says_in_one_sentence_why_it_does_not_start(arguments: list[str], told: str) -> None:
    assert told in Outcome("dashboard", *arguments).refusal()


def test_private_key_is_no_key_for_callers(tmp_path: Path) -> None:
    file = tmp_path / "token.key"
    file.write_bytes(private_pem(Ed25519PrivateKey.generate()))
    with pytest.raises(StartError, match="give one or more public Ed25519 keys"):
        HttpCallers(file)


def test_certificate_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"--tls-cert \S+a.pem, --tls-key \S+a.key: they cannot be read"):
        read_https(tmp_path / "a.pem", tmp_path / "a.key")
