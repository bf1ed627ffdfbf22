"""Tokens: what is taken, what is not and why, and the pass that a join token is changed for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sheepfold_server.core.permissions import ALL_JOBS, Caller, Role
from sheepfold_server.shell.passes import give_pass
from sheepfold_server.shell.security import Security
from sheepfold_server.shell.tokens import (
    CLOCK_SKEW_SECONDS,
    PASS_SECONDS,
    PASS_SECONDS_MAX,
    Grant,
    Signer,
    Use,
    Verifier,
    key_id,
    public_pem,
    read_public_keys,
)
from sheepfold_wire.access import is_join_token
from sheepfold_wire.connection import TOKEN
from sheepfold_wire.errors import Action, NotReady, TokenRefused

NOW = 1_800_000_000.0
KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
SIGNER, VERIFIER = Signer(KEY), Verifier([KEY.public_key()])
WORKER = Caller(Role.WORKER, "bert", "host-7")
GRANT = Grant(WORKER, Use.PASS, NOW + 900)

RIGHT: dict[str, Any] = {
    "iss": "sheepfold",
    "aud": "bert",
    "sub": "host-7",
    "role": "worker",
    "use": "pass",
    "iat": int(NOW),
    "exp": int(NOW) + 900,
    "jti": "1",
}


def signed(changes: dict[str, Any], key: Any = KEY, algorithm: str = "EdDSA", kid: str | None = None) -> str:
    """A token with claims of RIGHT, but for some; None leaves one out."""
    claims = {name: value for name, value in (RIGHT | changes).items() if value is not None}
    return jwt.encode(claims, key, algorithm, {"kid": key_id(KEY.public_key()) if kid is None else kid})


def refusal(token: str, now: float = NOW) -> str:
    with pytest.raises(TokenRefused) as refused:
        VERIFIER.grant(token, now)
    assert token not in str(refused.value)
    assert refused.value.action is Action.STOP
    return str(refused.value)


@pytest.mark.parametrize("job", ["bert", ALL_JOBS])
@pytest.mark.parametrize("use", list(Use))
@pytest.mark.parametrize("role", list(Role))
def test_what_is_signed_is_what_is_read(role: Role, use: Use, job: str) -> None:
    grant = Grant(Caller(role, job, "host-7"), use, NOW + 900, "ab" * 32)
    assert VERIFIER.grant(SIGNER.sign(grant, NOW), NOW) == grant


def test_longest_token_fits_an_address() -> None:
    longest = Grant(Caller(Role.WORKER, "j" * 63, "s" * 64), Use.JOIN, NOW + 1e9, "ab" * 32)
    assert TOKEN.fullmatch(SIGNER.sign(longest, NOW))


def test_claims_made_by_hand_are_right_until_one_is_changed() -> None:
    assert VERIFIER.grant(signed({}), NOW) == GRANT


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in RIGHT),
        {"iss": "someone"},
        {"role": "root"},
        {"role": "Admin"},
        {"use": "refresh"},
        {"aud": ["bert", "other"]},
        {"aud": "../bert"},
        {"aud": ""},
        {"exp": "soon"},
        {"cnf": "ab"},
        {"sub": 7},
    ],
    ids=str,
)
def test_claim_that_is_missing_or_not_ours_is_refused(changes: dict[str, Any]) -> None:
    assert "none of this server's" in refusal(signed(changes))


def test_algorithm_is_ours_whatever_the_token_says() -> None:
    none = jwt.encode(RIGHT, "", "none", {"kid": key_id(KEY.public_key())})
    assert "none of" in refusal(none.rstrip(".") + ".")
    public = public_pem(KEY.public_key())  # the classic: the public key as a shared secret
    header, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "typ": "JWT", "kid": key_id(KEY.public_key())}, RIGHT)
    )
    mac = hmac.new(public, f"{header}.{body}".encode(), hashlib.sha256).digest()
    forged = f"{header}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    assert "none of" in refusal(forged)


def test_key_of_another_is_refused_under_its_name_and_under_ours() -> None:
    assert "signed by a key that is not known here" in refusal(Signer(OTHER).sign(GRANT, NOW))
    assert "none of this server's" in refusal(signed({}, OTHER))
    assert "not known here" in refusal(signed({}, kid=""))


@pytest.mark.parametrize("text", ["", "x", "x" * 40, "a.b.c" * 8, "\u20ac" * 20, "x" * 1025, "..." * 10])
def test_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenRefused, match="none of"):
        VERIFIER.grant(text, NOW)


def test_every_bit_of_a_token_counts() -> None:
    token = SIGNER.sign(GRANT, NOW)
    for position in range(0, len(token) - 1, 3):  # the last character has bits that base64 ignores
        other = "A" if token[position] != "A" else "B"
        refusal(token[:position] + other + token[position + 1 :])


def test_time_is_checked_with_a_minute_for_clocks_that_differ() -> None:
    token = SIGNER.sign(GRANT, NOW)
    assert VERIFIER.grant(token, NOW + 900 + CLOCK_SKEW_SECONDS) == GRANT
    assert "the pass token ended 61 s ago" in refusal(token, NOW + 901 + CLOCK_SKEW_SECONDS)
    assert VERIFIER.grant(token, NOW - CLOCK_SKEW_SECONDS) == GRANT
    assert "begins in 61 s" in refusal(token, NOW - CLOCK_SKEW_SECONDS - 1)


def test_pass_of_more_than_a_day_is_refused_and_a_join_token_is_not() -> None:
    seconds = PASS_SECONDS_MAX + 1.0
    assert "more than 86400 s" in refusal(SIGNER.sign(Grant(WORKER, Use.PASS, NOW + seconds), NOW))
    join = Grant(WORKER, Use.JOIN, NOW + seconds)
    assert VERIFIER.grant(SIGNER.sign(join, NOW), NOW) == join


def test_keys_are_read_one_after_the_other() -> None:
    keys = read_public_keys(public_pem(KEY.public_key()) + b"\n# the next\n" + public_pem(OTHER.public_key()))
    either = Verifier(keys)
    for key in (KEY, OTHER):
        assert either.grant(Signer(key).sign(GRANT, NOW), NOW) == GRANT


def test_client_tells_a_join_token_from_a_pass_and_from_anything_else() -> None:
    assert is_join_token(SIGNER.sign(Grant(WORKER, Use.JOIN, NOW), NOW))
    others = [SIGNER.sign(GRANT, NOW), "", "x" * 43, "a.b.c", "a.WzFd.c", "a.\xff.c", "a.bnVsbA.c"]
    assert [text for text in others if is_join_token(text)] == []


# --- passes ---------------------------------------------------------------------------------------------

SECURITY = Security(verifier=VERIFIER, signer=SIGNER)


def test_pass_is_for_the_same_caller_and_certificate_and_for_15_minutes() -> None:
    join = Grant(WORKER, Use.JOIN, NOW + 1e6, "ab" * 32)
    reply = give_pass(SECURITY, join, NOW)
    assert reply.seconds == PASS_SECONDS
    assert VERIFIER.grant(reply.token, NOW) == Grant(WORKER, Use.PASS, NOW + PASS_SECONDS, "ab" * 32)
    assert reply.token not in repr(reply)


def test_pass_ends_with_the_join_token() -> None:
    assert give_pass(SECURITY, Grant(WORKER, Use.JOIN, NOW + 10), NOW).seconds == 10 + CLOCK_SKEW_SECONDS


def test_coordinator_without_a_signing_key_says_what_to_do() -> None:
    with pytest.raises(NotReady, match="--token-signer"):
        give_pass(Security(verifier=VERIFIER), GRANT, NOW)


def test_open_server_gives_an_empty_pass() -> None:
    assert give_pass(Security(), None, NOW).token == ""
