"""What one client may take of the dashboard: time, bytes and places, all in one value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers that hold; tests make smaller ones."""

    connections: int = 256
    """At once. One more takes the place of the one that has kept us waiting longest."""
    handshake_seconds: float = 5.0
    """For a TLS handshake; as long for saying goodbye."""
    header_seconds: float = 10.0
    """From a connection, or the end of an answer on it, to the last byte of a request's header."""
    body_seconds: float = 10.0
    """From there to the last byte of its body."""
    reading_seconds: float = 30.0
    """For which a client may read nothing of an answer that does not fit into the socket."""
    header_bytes: int = 32_768
    """Of the request line and all headers together. A query may name series in 8 KiB, or 24 with escapes."""
    body_bytes: int = 8_192
    """The largest body that anything here reads is a form with one token."""
    answer_seconds: float = 300.0
    """Then a stream ends, and its browser goes on in another, which asks anew who may look."""


LIMITS = Limits()
