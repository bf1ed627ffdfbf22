"""Calls of any bytes with any credential, and what is wrong with their answers."""

from __future__ import annotations

import random
import re
import string
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.integration.test_permissions import CHECK, METHODS, OF_NO_JOB, request_about
from tests.security.decoders import push_header
from tests.security.mutate import streams

from sheepfold_server.core.permissions import ADMIT, ALL_JOBS, OPEN_CALLS, ROLES_OF_CALL, Caller, Role
from sheepfold_server.shell.tokens import Grant, Signer, Use
from sheepfold_wire import access
from sheepfold_wire.access import Access
from sheepfold_wire.connection import Connection
from sheepfold_wire.frames import chunk_frame, push_header_frame, push_region_frame
from sheepfold_wire.status import DETAILS_KEY, from_details

CALL_SECONDS = 1.0
FORGED = 0.1
"""Of the tokens, one character is changed."""
SHORT = b"\x0a\x05other\x12\x04work\x18\x01\x22\x02ab"
"""Three fields of no message in particular."""
REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
TELLTALE = re.compile(
    r"Traceback|File \"|\w\.py\b|, line \d+|0x[0-9a-f]{6}|/(?:opt|usr|home|tmp|root|work|var|etc)/"
    r"|\w(?:Error|Exception)\b|<class|<built-in| object at |NoneType|Exception (?:calling|iterating)"
)
"""Paths, tracebacks and text of Python's."""


def answer(channel: grpc.Channel, method: str, messages: Iterable[bytes], token: str, seconds: float) -> Any:
    """None for a reply, the error of a call that ended with one. `token`: empty for none."""
    shown = ((access.TOKEN_KEY, access.TOKEN_SCHEME + token),) if token else ()
    call: Any = channel.stream_stream(method, None, None)(iter(messages), timeout=seconds, metadata=shown)
    try:
        next(call, None)
        call.cancel()
    except grpc.RpcError as error:
        return error
    return None


def is_ours(error: Any) -> bool:
    """Of one of our errors, or of the end of the time that the caller gave."""
    found = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    if found is not None:
        return from_details(found) is not None and error.code() is not grpc.StatusCode.INTERNAL
    return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def told(error: Any) -> str:
    """All that a caller can read of an error."""
    metadata = (str(value) for _, value in error.trailing_metadata() or ())
    return " ".join((str(error.details()), *metadata))


@dataclass(frozen=True)
class Credential:
    """What comes with a call, and what it is good for."""

    token: str
    """Empty for none."""
    role: Role | None = None
    """None: nobody's."""
    use: Use = Use.PASS

    def may_call(self, method: str) -> bool:
        """Of calls of shards a token is no credential, whatever it says."""
        if method in OPEN_CALLS:
            return True
        roles = ROLES_OF_CALL[method] - {Role.SHARD}
        return self.role in roles and (self.use is Use.JOIN) == (method == ADMIT)


def credentials(signer: Signer, now: float) -> list[Credential]:
    """Tokens of every role, use and kind of job that are good, and some that are not."""
    callers = [Caller(role, job, "x") for role in Role for job in (ALL_JOBS, "small")]
    good = [
        Credential(signer.sign(Grant(caller, use, now + 3600.0), now), caller.role, use)
        for caller in callers
        for use in Use
    ]
    admin = Grant(Caller(Role.ADMIN, subject="x"), Use.PASS, now + 3600.0)
    ended = signer.sign(Grant(admin.caller, Use.PASS, now - 120.0), now - 3600.0)
    foreign = Signer(Ed25519PrivateKey.generate()).sign(admin, now)
    return [*good, Credential(""), Credential(ended), Credential(foreign)]


def forged(draw: random.Random, token: str) -> str:
    """With one character of another kind."""
    at = draw.randrange(len(token))
    return token[:at] + draw.choice([c for c in string.ascii_letters if c != token[at]]) + token[at + 1 :]


@dataclass
class Tally:
    """What became of inputs. The last three stay empty."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    """Answers that are none of ours."""
    told: list[str] = field(default_factory=list)
    """Answers that tell of our insides."""
    wrongly_allowed: list[str] = field(default_factory=list)
    """Calls that went on without the credential for it."""

    def take(self, other: Tally) -> None:
        self.inputs += other.inputs
        self.outcomes += other.outcomes
        self.crashes += other.crashes
        self.told += other.told
        self.wrongly_allowed += other.wrongly_allowed

    def add(self, method: str, credential: Credential, error: Any) -> None:
        """`error`: None for a reply."""
        code = grpc.StatusCode.OK if error is None else error.code()
        self.inputs += 1
        self.outcomes[code.name] += 1
        shown = f"{method} as {credential.role} {credential.use}: {code.name} {error and error.details()}"[
            :300
        ]
        is_late = code is grpc.StatusCode.DEADLINE_EXCEEDED
        if not credential.may_call(method) and code not in REFUSALS and not is_late:
            self.wrongly_allowed.append(shown)
        is_unknown = method == CHECK and code is grpc.StatusCode.NOT_FOUND  # by grpc's health service
        if error is not None and not is_unknown and not is_ours(error):
            self.crashes.append(shown)
        if error is not None and TELLTALE.search(told(error)):
            self.told.append(shown)


@dataclass(frozen=True)
class CallAttack:
    """On servers that ask for tokens."""

    connection: Connection
    shard: str
    """Its address."""
    signer: Signer

    def run(self, seed: str, count: int) -> Tally:
        """That many calls, one after the other: the same seed makes the same messages."""
        draw, tally = random.Random(seed), Tally()
        good = credentials(self.signer, time.time())
        access_to = Access(self.connection)
        with (
            access_to.channel(self.connection.target, []) as to_coordinator,
            access_to.channel(self.shard, []) as to_shard,
        ):
            for _ in range(count):
                method, credential = draw.choice(METHODS), draw.choice(good)
                if credential.role and draw.random() < FORGED:
                    credential = Credential(forged(draw, credential.token))
                channel = to_shard if "ShardService" in method else to_coordinator
                sent = messages(draw, method)
                tally.add(method, credential, answer(channel, method, sent, credential.token, CALL_SECONDS))
        return tally


def messages(draw: random.Random, method: str) -> list[bytes]:
    """What a call of the method could bring, changed."""
    if method.endswith("Push"):
        return streams(draw, [push_header_frame(push_header()), chunk_frame(0, b"abc"), push_region_frame(5)])
    is_about_job = method != CHECK and method.rpartition("/")[2] not in OF_NO_JOB
    return streams(draw, [request_about("small", method) if is_about_job else SHORT])
