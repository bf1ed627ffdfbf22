"""Opens channels to a coordinator and its shards as a connection says, and knows what to show to them.

A join token in the address is shown to the coordinator alone, which answers with a pass of 15 minutes; the
pass goes with every other call and is changed for a new one when half of its time is over.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from sheepfold_wire.connection import Connection, is_loopback, parse_connection
from sheepfold_wire.errors import ServerUntrusted
from sheepfold_wire.status import DETAILS_KEY, from_details
from sheepfold_wire.tls import examine_tls
from sheepfold_wire.v1 import coordinator_pb2, coordinator_pb2_grpc

TOKEN_KEY = "authorization"
TOKEN_SCHEME = "Bearer "
ADMIT_SECONDS = 10.0

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate of one's own, for servers that ask for it. All PEM."""

    ca: bytes
    key: bytes = field(repr=False)
    chain: bytes


class Access:
    """Any thread may use it."""

    def __init__(self, where: Connection | str, identity: Identity | None = None) -> None:
        self.connection = parse_connection(where) if isinstance(where, str) else where
        self._identity = identity
        self._lock = threading.Lock()
        self._credentials: grpc.ChannelCredentials | None = None
        token = self.connection.token
        self._shown = _shown(token)
        self._passes = is_join_token(token)
        self._change_at = self._ends_at = 0.0
        """When to ask for another pass, and until when this one is shown at the latest; monotonic."""

    @property
    def target(self) -> str:
        """HOST:PORT of the coordinator."""
        return self.connection.target

    def metadata(self) -> Metadata:
        """What goes with a call. May ask the coordinator for a pass: raises OSError while that is silent,
        ServerUntrusted, TokenRefused."""
        if not self._passes:
            return self._shown
        with self._lock:
            if time.monotonic() >= self._change_at:
                self._change_pass()
            return self._shown

    def _change_pass(self) -> None:
        asked_at = time.monotonic()
        try:
            reply = self._admit()
        except OSError:
            if asked_at < self._ends_at:
                return  # the one at hand is still good
            raise
        self._shown = _shown(reply.token)
        self._change_at = asked_at + reply.seconds / 2
        self._ends_at = asked_at + reply.seconds * 0.9

    def _admit(self) -> coordinator_pb2.AdmitReply:
        joins = _shown(self.connection.token)
        with self._open(self.target, [("grpc.enable_http_proxy", 0)]) as channel:
            admit: Any = coordinator_pb2_grpc.CoordinatorServiceStub(channel).Admit
            try:
                reply: coordinator_pb2.AdmitReply = admit(
                    coordinator_pb2.AdmitRequest(), timeout=ADMIT_SECONDS, metadata=joins
                )
            except grpc.RpcError as error:
                raise _failure(error, self.target) from None
        return reply

    def channel(self, target: str, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """To the coordinator or a shard. Raises ServerUntrusted; OSError while the coordinator is silent."""
        with self._lock:
            return self._open(target, options)

    def _open(self, target: str, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        if self.connection.ca:
            return grpc.secure_channel(target, self._trusted(), list(options))
        if self.connection.token and not is_loopback(target):
            raise ServerUntrusted(
                f"the token would go to {target} in plain text, where others can read it; serve with TLS "
                "(`sheepfold up --listen`, or --tls-cert, --tls-key and --tls-ca), or without a token"
            )
        return grpc.insecure_channel(target, list(options))

    def _trusted(self) -> grpc.ChannelCredentials:
        """The CA that the coordinator shows, once it has the fingerprint that the address names."""
        if self._credentials is None:
            seen = examine_tls(self.target, self.connection.ca)
            if self._identity is None:
                self._credentials = grpc.ssl_channel_credentials(seen.ca_pem)
            else:
                own = self._identity
                self._credentials = grpc.ssl_channel_credentials(seen.ca_pem, own.key, own.chain)
        return self._credentials


def is_join_token(token: str) -> bool:
    """Whether a token says of itself that it is to be changed for a pass; the server checks it."""
    _, _, rest = token.partition(".")
    body = rest.partition(".")[0]
    try:
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(claims, dict) and claims.get("use") == "join"


def _shown(token: str) -> Metadata:
    return ((TOKEN_KEY, TOKEN_SCHEME + token),) if token else ()


def _failure(error: Any, target: str) -> Exception:
    """What the coordinator answered; OSError if nobody did."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and (answer := from_details(value)) is not None:
            return answer
    return ConnectionError(f"{target} gives no pass: {error.code().name}, {error.details()}")
