"""Settings of every gRPC server and channel of ours: bounded messages, dead peers noticed, no surprises."""

from __future__ import annotations

from sheepfold_server.shell.open_files import connections_max
from sheepfold_wire.frames import MESSAGE_BYTES_MAX

STREAMS_MAX = 256
"""Calls of one connection at a time, with those that were reset and that the server has not let go of yet:
gRPC refuses more. A dashboard has a call for each job, a process with many workers a few for each."""
READ_AHEAD_BYTES = 1 << 20
"""What a server takes of one call before it is read. gRPC's own guess grows with the speed of the link, to
megabytes per call that waits. A call brings this much per round trip at most: 1 GB/s at 1 ms."""
KEEPALIVE_MS = 10_000
DEADLINE_SECONDS_MAX = 7 * 86_400.0

_BOUNDS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
]

_KEEPALIVE = [("grpc.keepalive_time_ms", KEEPALIVE_MS), ("grpc.keepalive_timeout_ms", KEEPALIVE_MS)]


def server_options() -> list[tuple[str, int]]:
    return [
        *_BOUNDS,
        *_KEEPALIVE,
        ("grpc.max_concurrent_streams", STREAMS_MAX),
        ("grpc.max_allowed_incoming_connections", connections_max()),  # more are closed as they come
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", READ_AHEAD_BYTES),
        ("grpc.so_reuseport", 0),  # else two processes share a port without a word
        ("grpc.server_handshake_timeout_ms", 5_000),
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # identity only
    ]


def channel_options() -> list[tuple[str, int]]:
    """Of channels between our own roles: no proxy, quick to reconnect."""
    return [
        *_BOUNDS,
        *_KEEPALIVE,
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]


def has_deadline(remaining_seconds: float | None) -> bool:
    """Whether a call ends by itself: grpc's sync server gives a call without deadline centuries, aio None."""
    return remaining_seconds is not None and remaining_seconds < DEADLINE_SECONDS_MAX
