"""What this machine can do at best with the bytes of one step: copy them, send them by TCP, by gRPC."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from statistics import median

import numpy as np
import numpy.typing as npt
from tests.bench.step.system import spawning

TRIES = 5
Bytes = npt.NDArray[np.uint8]


def ceilings(payload_bytes: int) -> dict[str, object]:
    """GB per second (10**9 bytes), medians.

    gRPC by `tests/bench/rpc_shapes.py`, at its best shape and size of message: raw bytes, no checks.
    """
    shapes = [sys.executable, "-m", "tests.bench.rpc_shapes", "--bytes", "64MiB", "--rounds", "3"]
    told = subprocess.run(shapes, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    best: dict[str, float] = {}
    for row in json.loads(told)["rows"]:
        way = f"grpc_{row['shape'].split()[0]}"
        best[way] = max(best.get(way, 0.0), row["gb_per_s"])
    return {"memcpy": memcpy(payload_bytes), "tcp": tcp(payload_bytes), **best}


def memcpy(payload_bytes: int) -> float:
    source = np.ones(payload_bytes, np.uint8)
    target = np.zeros_like(source)
    return rate(payload_bytes, [_timed_copy(source, target) for _ in range(TRIES)])


def _timed_copy(source: Bytes, target: Bytes) -> float:
    began = time.perf_counter()
    target[:] = source
    return time.perf_counter() - began


def tcp(payload_bytes: int) -> float:
    """From another process over loopback into one buffer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours, theirs = spawning.Pipe()
        port = listening.getsockname()[1]
        process = spawning.Process(target=_send, args=(theirs, port, payload_bytes))
        process.start()
        connection, _ = listening.accept()
        with connection:
            buffer, seconds = memoryview(bytearray(payload_bytes)), []
            for _ in range(TRIES):
                ours.send("go")
                began, filled = time.perf_counter(), 0
                while filled < payload_bytes:
                    filled += connection.recv_into(buffer[filled:])
                seconds.append(time.perf_counter() - began)
        process.join(30)
    return rate(payload_bytes, seconds)


def _send(pipe: Connection, port: int, payload_bytes: int) -> None:
    payload = memoryview(bytes(payload_bytes))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(TRIES):
            pipe.recv()
            connection.sendall(payload)


def rate(payload_bytes: int, seconds: list[float]) -> float:
    return round(payload_bytes / median(seconds) / 1e9, 2)
