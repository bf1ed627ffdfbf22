"""Opens channels to a coordinator and its shards as a connection says: one CA for all of them, one token."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import grpc

from sheepfold_wire.connection import Connection, is_loopback, parse_connection
from sheepfold_wire.errors import ServerUntrusted
from sheepfold_wire.tls import examine_tls

TOKEN_KEY = "authorization"
TOKEN_SCHEME = "Bearer "


class Access:
    """Any thread may use it. `metadata` goes with every call."""

    def __init__(self, where: Connection | str) -> None:
        self.connection = parse_connection(where) if isinstance(where, str) else where
        token = self.connection.token
        self.metadata: tuple[tuple[str, str], ...] = ((TOKEN_KEY, TOKEN_SCHEME + token),) if token else ()
        self._lock = threading.Lock()
        self._credentials: grpc.ChannelCredentials | None = None

    @property
    def target(self) -> str:
        """HOST:PORT of the coordinator."""
        return self.connection.target

    def channel(self, target: str, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """To the coordinator or a shard. Raises ServerUntrusted; OSError while the coordinator is silent."""
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
        with self._lock:
            if self._credentials is None:
                seen = examine_tls(self.target, self.connection.ca)
                self._credentials = grpc.ssl_channel_credentials(seen.ca_pem)
            return self._credentials
