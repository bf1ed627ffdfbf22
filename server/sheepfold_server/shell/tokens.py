"""Signed tokens (JWT, EdDSA): made with a private key, checked with public ones, never stored by a server.

Two uses. A *join token* lives long, goes to workers and readers in their address, and is good for one call
alone, Admit of the coordinator, which answers with a *pass*. A pass lives 15 minutes and is good for every
call that its role may make; shards see nothing else, and cannot sign one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sheepfold_server.core.permissions import Caller, Role
from sheepfold_wire.connection import TOKEN
from sheepfold_wire.errors import TokenRefused
from sheepfold_wire.ids import is_job_name

ALGORITHM = "EdDSA"
ISSUER = "sheepfold"
PASS_SECONDS = 900
PASS_SECONDS_MAX = 86_400
JOIN_DAYS = 365
CLOCK_SKEW_SECONDS = 60
REQUIRED = ["iss", "aud", "sub", "role", "use", "iat", "exp", "jti"]
REMEDY = "take a new address, from `sheepfold up` or `sheepfold token`"


class Use(StrEnum):
    """What a token is good for."""

    JOIN = "join"
    PASS = "pass"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token says, once its signature was checked."""

    caller: Caller
    use: Use
    expires_at: float
    """Unix time."""
    certificate: str = ""
    """SHA-256 of the client certificate that must come with it, hex; empty: none."""


class Signer:
    """Makes tokens."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._id = key_id(key.public_key())

    def sign(self, grant: Grant, now: float | None = None) -> str:
        """`expires_at` is rounded up to whole seconds."""
        began = int(time.time() if now is None else now)
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": grant.caller.job,
            "sub": grant.caller.subject,
            "role": grant.caller.role.value,
            "use": grant.use.value,
            "iat": began,
            "exp": -int(-grant.expires_at // 1),
            "jti": secrets.token_urlsafe(9),
        }
        if grant.certificate:
            claims["cnf"] = {"x5t#S256": grant.certificate}
        return jwt.encode(claims, self._key, ALGORITHM, {"kid": self._id})


class Verifier:
    """Checks tokens against public keys; any of them will do, so that keys can be changed one by one."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self._keys = {key_id(key): key for key in keys}

    def grant(self, token: str, now: float | None = None) -> Grant:
        """Raises TokenRefused, without the token, saying what is wrong with it."""
        now = time.time() if now is None else now
        if not TOKEN.fullmatch(token):
            raise TokenRefused(f"the token has {len(token)} characters and is none of ours; {REMEDY}")
        try:
            key = self._keys[str(jwt.get_unverified_header(token).get("kid", ""))]
            claims = jwt.decode(
                token,
                key,
                [ALGORITHM],  # whatever the token says it is signed with
                issuer=ISSUER,
                options={"require": REQUIRED, "verify_aud": False, "verify_exp": False, "verify_iat": False},
            )
            found = _grant(claims)
            began = float(claims["iat"])
        except KeyError:
            raise TokenRefused(f"the token is signed by a key that is not known here; {REMEDY}") from None
        except (jwt.PyJWTError, TypeError, ValueError):
            raise TokenRefused(f"the token is none of this server's; {REMEDY}") from None
        _check_times(found, began, now)
        return found


def _grant(claims: dict[str, object]) -> Grant:
    """Raises ValueError or TypeError for claims that none of our signers makes."""
    job, bound = claims["aud"], claims.get("cnf", {})
    if not isinstance(job, str) or not (job == "*" or is_job_name(job)) or not isinstance(bound, dict):
        raise ValueError("audience")
    caller = Caller(Role(str(claims["role"])), job, str(claims["sub"]))
    certificate = bound.get("x5t#S256", "")
    return Grant(caller, Use(str(claims["use"])), float(str(claims["exp"])), str(certificate))


def _check_times(grant: Grant, began: float, now: float) -> None:
    late = now - grant.expires_at
    if late > CLOCK_SKEW_SECONDS:
        raise TokenRefused(
            f"the {grant.use} token ended {late:.0f} s ago; {REMEDY}, and compare the clocks of both machines"
        )
    if began - now > CLOCK_SKEW_SECONDS:
        raise TokenRefused(f"the token begins in {began - now:.0f} s; compare the clocks of both machines")
    if grant.use is Use.PASS and grant.expires_at - began > PASS_SECONDS_MAX:
        raise TokenRefused(
            f"the pass is for {grant.expires_at - began:.0f} s, more than {PASS_SECONDS_MAX} s; {REMEDY}"
        )


def key_id(key: Ed25519PublicKey) -> str:
    """Which key a token is signed with: the first 16 hex digits of its SHA-256."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def is_bound(grant: Grant, certificate: str) -> bool:
    """Whether a token may be used with a client certificate of that SHA-256 (empty: without one)."""
    return not grant.certificate or hmac.compare_digest(grant.certificate, certificate)


def read_signing_key(pem: bytes) -> Ed25519PrivateKey:
    """Raises ValueError."""
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is no Ed25519 key")
    return key


def read_public_keys(pem: bytes) -> list[Ed25519PublicKey]:
    """All keys of a file, PEM; raises ValueError."""
    end = b"-----END PUBLIC KEY-----"
    keys = []
    for piece in pem.split(end)[:-1]:
        key = serialization.load_pem_public_key(piece + end)
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("one of them is no Ed25519 key")
        keys.append(key)
    if not keys:
        raise ValueError("there is none in it")
    return keys


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
