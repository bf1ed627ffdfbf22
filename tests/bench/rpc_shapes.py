"""Which gRPC shape moves bytes fastest, and which answers soonest, between two processes on loopback.

The bulk half pushes and pulls raw bytes (identity serialisers, one channel, a synchronous client) through
a thread-pool server and a ``grpc.aio`` server, as one stream or as unary calls with two in flight, at three
message sizes. The latency half times an empty unary call and a ping-pong on an open two-way stream. Both
servers stay up for the whole run and every round visits every cell: the cells in a new order each round, the
two servers back to back in each, taking turns to go first, so that a noisy machine disturbs all alike.

    python tests/bench/rpc_shapes.py [--bytes 64MiB] [--rounds 7]

The last line of the output is one JSON object; GB means 10**9 bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import queue
import random
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import grpc
import grpc.aio

KIB, MIB = 1024, 1024 * 1024
MAX_MESSAGE = 8 * MIB
RING_BYTES = 64 * MIB
MESSAGE_SIZES = (256 * KIB, MIB, 4 * MIB)
SERVERS = ("sync", "aio")
IN_FLIGHT = 2
PINGS_PER_ROUND = 150
WARM_UP_PINGS = 20
START_LIMIT_S = 10.0
STOP_LIMIT_S = 2.5

SERVICE = "sheepfold.bench.Shapes"
EMPTY = b""
PULL_REQUEST = struct.Struct("<QQ")  # message size, number of messages
COUNT = struct.Struct("<Q")
SECONDS = struct.Struct("<d")


def channel_options() -> list[tuple[str, int]]:
    """Options for both ends: bounded messages, and no proxy between them."""
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE),
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.enable_http_proxy", 0),
    ]


def ring(size: int) -> Iterator[bytes]:
    """An endless run of messages over distinct memory, so that no message size profits from a warm cache."""
    return itertools.cycle([bytes([i % 256]) * size for i in range(RING_BYTES // size)])


RINGS = {size: ring(size) for size in MESSAGE_SIZES}


def messages(size: int, count: int) -> Iterator[bytes]:
    return itertools.islice(RINGS[size], count)


# ---------------------------------------------------------------------------------------------- server side


def push_unary(request: bytes, _: object) -> bytes:
    return COUNT.pack(len(request))


def push_stream(requests: Iterator[bytes], _: object) -> bytes:
    return COUNT.pack(sum(len(chunk) for chunk in requests))


def pull_unary(request: bytes, _: object) -> bytes:
    size, _count = PULL_REQUEST.unpack(request)
    return next(RINGS[size])


def pull_stream(request: bytes, _: object) -> Iterator[bytes]:
    size, count = PULL_REQUEST.unpack(request)
    return messages(size, count)


def ping(request: bytes, _: object) -> bytes:
    return request


def ping_pong(requests: Iterator[bytes], _: object) -> Iterator[bytes]:
    yield from requests


def cpu_seconds(_request: bytes, _: object) -> bytes:
    return SECONDS.pack(time.process_time())


async def push_unary_aio(request: bytes, context: object) -> bytes:
    return push_unary(request, context)


async def push_stream_aio(requests: AsyncIterator[bytes], _: object) -> bytes:
    total = 0
    async for chunk in requests:
        total += len(chunk)
    return COUNT.pack(total)


async def pull_unary_aio(request: bytes, context: object) -> bytes:
    return pull_unary(request, context)


async def pull_stream_aio(request: bytes, context: object) -> AsyncIterator[bytes]:
    for chunk in pull_stream(request, context):
        yield chunk


async def ping_aio(request: bytes, _: object) -> bytes:
    return request


async def ping_pong_aio(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def cpu_seconds_aio(request: bytes, context: object) -> bytes:
    return cpu_seconds(request, context)


# The stubs type a method handler for the synchronous server only; the same constructors serve both.
Behaviour = Callable[..., Any]


def generic_handler(behaviours: dict[str, Behaviour]) -> grpc.GenericRpcHandler:
    """Every method with identity serialisers: bytes in, bytes out."""
    makers: dict[str, Callable[..., Any]] = {
        "PushUnary": grpc.unary_unary_rpc_method_handler,
        "PushStream": grpc.stream_unary_rpc_method_handler,
        "PullUnary": grpc.unary_unary_rpc_method_handler,
        "PullStream": grpc.unary_stream_rpc_method_handler,
        "Ping": grpc.unary_unary_rpc_method_handler,
        "PingPong": grpc.stream_stream_rpc_method_handler,
        "CpuSeconds": grpc.unary_unary_rpc_method_handler,
    }
    handlers = {
        name: make(behaviours[name], request_deserializer=None, response_serializer=None)
        for name, make in makers.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


SYNC_BEHAVIOURS: dict[str, Behaviour] = {
    "PushUnary": push_unary,
    "PushStream": push_stream,
    "PullUnary": pull_unary,
    "PullStream": pull_stream,
    "Ping": ping,
    "PingPong": ping_pong,
    "CpuSeconds": cpu_seconds,
}
AIO_BEHAVIOURS: dict[str, Behaviour] = {
    "PushUnary": push_unary_aio,
    "PushStream": push_stream_aio,
    "PullUnary": pull_unary_aio,
    "PullStream": pull_stream_aio,
    "Ping": ping_aio,
    "PingPong": ping_pong_aio,
    "CpuSeconds": cpu_seconds_aio,
}


def serve_sync(threads: int, options: list[tuple[str, int]]) -> None:
    server = grpc.server(ThreadPoolExecutor(max_workers=threads), options=options)
    server.add_generic_rpc_handlers((generic_handler(SYNC_BEHAVIOURS),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


async def serve_aio(options: list[tuple[str, int]]) -> None:
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((generic_handler(AIO_BEHAVIOURS),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def serve(kind: str, settings: Settings) -> None:
    """Child entry point: print the bound port, then serve until stopped or ended by the alarm."""
    signal.alarm(int(settings.budget_s + len(SERVERS) * (START_LIMIT_S + STOP_LIMIT_S)))
    options = [*channel_options(), ("grpc.so_reuseport", int(settings.reuseport))]
    if kind == "sync":
        serve_sync(settings.threads, options)
    else:
        asyncio.run(serve_aio(options))


# ---------------------------------------------------------------------------------------------- client side


@dataclass(frozen=True)
class Settings:
    total_bytes: int
    rounds: int
    budget_s: float
    threads: int
    reuseport: bool


class Budget:
    """The time left to the whole run; also the deadline of every call."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def spent(self) -> bool:
        return self.left() == 0.0


@contextmanager
def server_process(kind: str, settings: Settings) -> Iterator[int]:
    """Run one server in a child process; yield its port and stop that child on the way out."""
    command = [sys.executable, __file__, "--serve", kind]
    command += ["--threads", str(settings.threads), "--budget", str(settings.budget_s)]
    command += ["--reuseport"] if settings.reuseport else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield read_port(child, kind)
        finally:
            stop(child)


def read_port(child: subprocess.Popen[str], kind: str) -> int:
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], START_LIMIT_S)
    line = child.stdout.readline() if ready else ""
    if not line.strip().isdigit():
        raise RuntimeError(f"the {kind} server did not report a port within {START_LIMIT_S:.0f} s")
    return int(line)


def stop(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        child.kill()


UnaryUnary: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
StreamUnary: TypeAlias = "grpc.StreamUnaryMultiCallable[bytes, bytes]"
UnaryStream: TypeAlias = "grpc.UnaryStreamMultiCallable[bytes, bytes]"
StreamStream: TypeAlias = "grpc.StreamStreamMultiCallable[bytes, bytes]"


class Client:
    """Calls to one server over one channel, every call bounded by what is left of the budget."""

    def __init__(self, channel: grpc.Channel, budget: Budget) -> None:
        self._budget = budget
        self._push_unary: UnaryUnary = channel.unary_unary(f"/{SERVICE}/PushUnary")
        self._push_stream: StreamUnary = channel.stream_unary(f"/{SERVICE}/PushStream")
        self._pull_unary: UnaryUnary = channel.unary_unary(f"/{SERVICE}/PullUnary")
        self._pull_stream: UnaryStream = channel.unary_stream(f"/{SERVICE}/PullStream")
        self._ping: UnaryUnary = channel.unary_unary(f"/{SERVICE}/Ping")
        self._ping_pong: StreamStream = channel.stream_stream(f"/{SERVICE}/PingPong")
        self._cpu_seconds: UnaryUnary = channel.unary_unary(f"/{SERVICE}/CpuSeconds")

    def server_cpu(self) -> float:
        (seconds,) = SECONDS.unpack(self._cpu_seconds(EMPTY, timeout=self._budget.left()))
        return float(seconds)

    def push_stream(self, size: int, count: int) -> int:
        (total,) = COUNT.unpack(self._push_stream(messages(size, count), timeout=self._budget.left()))
        return int(total)

    def push_unary(self, size: int, count: int) -> int:
        replies = self._windowed(self._push_unary, messages(size, count))
        return sum(COUNT.unpack(reply)[0] for reply in replies)

    def pull_stream(self, size: int, count: int) -> int:
        request = PULL_REQUEST.pack(size, count)
        return sum(len(chunk) for chunk in self._pull_stream(request, timeout=self._budget.left()))

    def pull_unary(self, size: int, count: int) -> int:
        requests = itertools.repeat(PULL_REQUEST.pack(size, 1), count)
        return sum(len(reply) for reply in self._windowed(self._pull_unary, requests))

    def _windowed(self, call: UnaryUnary, requests: Iterator[bytes]) -> Iterator[bytes]:
        """The replies to `requests` in order, `IN_FLIGHT` calls outstanding at a time."""
        pending: deque[grpc.Future[bytes]] = deque()
        for request in requests:
            if len(pending) == IN_FLIGHT:
                yield pending.popleft().result()
            pending.append(call.future(request, timeout=self._budget.left()))
        for future in pending:
            yield future.result()

    def ping_times(self, count: int) -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            self._ping(EMPTY, timeout=self._budget.left())
            times.append(time.perf_counter() - start)
        return times

    def ping_pong_times(self, count: int) -> list[float]:
        times = []
        outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        replies = self._ping_pong(iter(outbox.get, None), timeout=self._budget.left())
        try:
            for _ in range(count):
                start = time.perf_counter()
                outbox.put(EMPTY)
                next(replies)
                times.append(time.perf_counter() - start)
        finally:
            outbox.put(None)
        for _ in replies:
            raise RuntimeError("the server answered more pings than were sent")
        return times


SHAPES: dict[str, Callable[[Client, int, int], int]] = {
    "push stream": Client.push_stream,
    "push unary x2": Client.push_unary,
    "pull stream": Client.pull_stream,
    "pull unary x2": Client.pull_unary,
}
LATENCIES: dict[str, Callable[[Client, int], list[float]]] = {
    "unary": Client.ping_times,
    "stream ping-pong": Client.ping_pong_times,
}


class Sample(NamedTuple):
    gb_per_s: float
    client_cpu_s_per_gb: float
    server_cpu_s_per_gb: float


BulkKey = tuple[str, int, str]  # shape, message size, server
LatencyKey = tuple[str, str]  # kind of call, server


@dataclass
class Results:
    bulk: defaultdict[BulkKey, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    latency: defaultdict[LatencyKey, list[float]] = field(default_factory=lambda: defaultdict(list))


def measure_bulk(client: Client, shape: str, size: int, total_bytes: int) -> Sample:
    count = max(1, total_bytes // size)
    server_before = client.server_cpu()
    client_before, start = time.process_time(), time.perf_counter()
    moved = SHAPES[shape](client, size, count)
    elapsed, client_cpu = time.perf_counter() - start, time.process_time() - client_before
    server_cpu = client.server_cpu() - server_before
    if moved != size * count:
        raise RuntimeError(f"{shape}: {moved} bytes arrived of {size * count}")
    gigabytes = moved / 1e9
    return Sample(gigabytes / elapsed, client_cpu / gigabytes, server_cpu / gigabytes)


def warm_up(clients: dict[str, Client]) -> None:
    """Connect, and grow every thread and buffer pool, before anything counts."""
    for client in clients.values():
        for time_calls in LATENCIES.values():
            time_calls(client, WARM_UP_PINGS)
        for transfer in SHAPES.values():
            transfer(client, MAX_MESSAGE // 2, 2)


def measure_round(
    number: int, clients: dict[str, Client], settings: Settings, budget: Budget, results: Results
) -> None:
    """One visit to every cell; the order depends on the round's number alone."""
    servers = SERVERS if number % 2 == 0 else SERVERS[::-1]
    for (kind, time_calls), server in itertools.product(LATENCIES.items(), servers):
        results.latency[kind, server] += time_calls(clients[server], PINGS_PER_ROUND)
    cells = list(itertools.product(SHAPES, MESSAGE_SIZES))
    random.Random(number).shuffle(cells)
    for (shape, size), server in itertools.product(cells, servers):
        if budget.spent():
            return
        sample = measure_bulk(clients[server], shape, size, settings.total_bytes)
        results.bulk[shape, size, server].append(sample)


def measure(clients: dict[str, Client], settings: Settings, budget: Budget) -> Results:
    """All the rounds the budget allows; a call cut short by the budget ends the run, not its results."""
    results = Results()
    try:
        warm_up(clients)
        for number in range(settings.rounds):
            if budget.spent():
                break
            measure_round(number, clients, settings, budget, results)
    except grpc.RpcError as error:
        if not (isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED):
            raise
    return results


# --------------------------------------------------------------------------------------------------- report


def bulk_rows(results: Results) -> list[dict[str, Any]]:
    rows = []
    for (shape, size, server), samples in sorted(results.bulk.items()):
        rates = [sample.gb_per_s for sample in samples]
        rows.append(
            {
                "shape": shape,
                "message_bytes": size,
                "server": server,
                "rounds": len(samples),
                "gb_per_s": round(statistics.median(rates), 3),
                "gb_per_s_min": round(min(rates), 3),
                "gb_per_s_max": round(max(rates), 3),
                "client_cpu_s_per_gb": round(statistics.median(s.client_cpu_s_per_gb for s in samples), 3),
                "server_cpu_s_per_gb": round(statistics.median(s.server_cpu_s_per_gb for s in samples), 3),
            }
        )
    return rows


def percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def latency_rows(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "server": server,
            "calls": len(times),
            "p50_us": round(percentile(times, 50) * 1e6, 1),
            "p95_us": round(percentile(times, 95) * 1e6, 1),
        }
        for (kind, server), times in sorted(results.latency.items())
    ]


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Left-aligned text and right-aligned numbers, the row keys as headings."""
    if not rows:
        print("(nothing was measured within the budget)")
        return
    headings = list(rows[0])
    cells = [[str(row[heading]) for heading in headings] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    print("  ".join(heading.ljust(width) for heading, width in zip(headings, widths, strict=True)))
    for row, line in zip(rows, cells, strict=True):
        aligned = (
            cell.ljust(width) if isinstance(row[heading], str) else cell.rjust(width)
            for heading, cell, width in zip(headings, line, widths, strict=True)
        )
        print("  ".join(aligned))


def report(results: Results) -> None:
    rows, latency = bulk_rows(results), latency_rows(results)
    print_table(rows)
    print()
    print_table(latency)
    print()
    print(json.dumps({"bench": "rpc_shapes", "rows": rows, "latency": latency}))


def load_line(when: str) -> str:
    return f"{when}: {os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f}"


def run(settings: Settings) -> None:
    with ExitStack() as stack:
        ports = {kind: stack.enter_context(server_process(kind, settings)) for kind in SERVERS}
        budget = Budget(settings.budget_s)
        clients = {}
        for kind, port in ports.items():
            channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=channel_options())
            clients[kind] = Client(stack.enter_context(channel), budget)
        print(load_line("start"), flush=True)
        results = measure(clients, settings, budget)
        print(load_line("end"), end="\n\n")
    report(results)


def parse_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (for example 64MiB)")
    return int(match[1]) * {None: 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": 1024 * MIB}[match[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare gRPC call shapes on loopback.")
    parser.add_argument("--bytes", type=parse_bytes, default=64 * MIB, help="bytes moved per cell and round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds; what does not fit is dropped")
    parser.add_argument("--threads", type=int, default=8, help="thread pool size of the sync server")
    parser.add_argument("--reuseport", action="store_true", help="set grpc.so_reuseport=1 (otherwise 0)")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = Settings(
        total_bytes=arguments.bytes,
        rounds=arguments.rounds,
        budget_s=arguments.budget,
        threads=arguments.threads,
        reuseport=arguments.reuseport,
    )
    if arguments.serve:
        serve(arguments.serve, settings)
    else:
        run(settings)


if __name__ == "__main__":
    main()
