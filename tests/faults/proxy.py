"""A proxy of TCP that does to connections what networks do to them, and counts what it really did.

Faults come from a seed that the caller prints. `forwarded_bytes` and `injected` count what happened and not
what was asked for: a bit counts as flipped once the bytes that hold it are on their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum

READ_BYTES = 64 << 10
DELAY_SECONDS = 0.05
"""Of each piece that is read while a link is slow."""
START_SECONDS = 10.0


class Fault(StrEnum):
    """What happens to a link."""

    DELAY = "delay"
    """Every piece arrives later, for a while."""
    STALL = "stall"
    """Nothing is read for a while, in either direction: senders fill their windows and wait."""
    DROP = "drop"
    """Every connection is reset."""
    HALF_CLOSE = "half close"
    """Every server reads the end of its stream; what it still says arrives."""
    CORRUPT = "corrupt"
    """One bit of what passes next is flipped, where `place` finds one to its liking."""


WHILE = (Fault.DELAY, Fault.STALL)
Place = Callable[[bytes], int | None]
"""Index of the byte to damage in a piece that passes; None: not in this one."""


def within(pattern: bytes) -> Place:
    """In the middle of the pattern, where a piece holds it."""

    def place(piece: bytes) -> int | None:
        at = piece.find(pattern)
        return None if at < 0 else at + len(pattern) // 2

    return place


@dataclass(eq=False, slots=True)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_half_closed: bool = False
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter] = field(init=False)

    def __post_init__(self) -> None:
        self.writers = self.client, self.server

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """One link: everything that connects to `address` reaches the target. Runs in a thread of its own."""

    def __init__(self, target: Callable[[], str], seed: int) -> None:
        """`target`: HOST:PORT, asked for at every connection: a server may come back elsewhere."""
        self._target, self._dice = target, random.Random(seed)
        self.forwarded_bytes = 0
        self.connections_made = 0
        self.injected: Counter[Fault] = Counter()
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._until: dict[Fault, float] = {}
        self._place: Place | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        started = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=READ_BYTES)
        self._server = asyncio.run_coroutine_threadsafe(started, self._loop).result(START_SECONDS)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def strike(self, fault: Fault, seconds: float = 0.0, place: Place | None = None) -> None:
        """`seconds`: of a delay or stall. `place`: of a flipped bit; left out, anywhere."""
        done: Future[None] = Future()

        def work() -> None:
            self._strike(fault, seconds, place)
            done.set_result(None)

        self._loop.call_soon_threadsafe(work)
        done.result(START_SECONDS)

    def _strike(self, fault: Fault, seconds: float, place: Place | None) -> None:
        match fault:
            case Fault.DELAY | Fault.STALL:
                self._until[fault] = time.monotonic() + seconds
            case Fault.DROP:
                for connection in self._open:
                    connection.abort()
                self.injected[fault] += len(self._open)
            case Fault.HALF_CLOSE:
                for connection in self._open:
                    if not connection.is_half_closed and connection.server.can_write_eof():
                        connection.is_half_closed = True
                        connection.server.write_eof()
                        self.injected[fault] += 1
            case Fault.CORRUPT:
                self._place = place or self._anywhere

    def _anywhere(self, piece: bytes) -> int | None:
        return self._dice.randrange(len(piece))

    @property
    def is_corrupting(self) -> bool:
        """Whether a bit is still to be flipped."""
        return self._place is not None

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        host, _, port = self._target().rpartition(":")
        try:
            answers, server = await asyncio.open_connection(host, int(port), limit=READ_BYTES)
        except (OSError, ValueError):
            client.transport.abort()
            self._tasks.discard(task)
            return
        self.connections_made += 1
        connection = _Connection(client, server)
        self._open.add(connection)
        try:
            await asyncio.gather(
                self._pump(connection, reader, server), self._pump(connection, answers, client)
            )
        finally:
            self._open.discard(connection)
            connection.abort()
            self._tasks.discard(task)

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One direction. An end passes on; an error takes the other direction with it."""
        try:
            while piece := await reader.read(READ_BYTES):
                await self._hold_up()
                if connection.is_half_closed and writer is connection.server:
                    continue
                writer.write(self._damaged(piece))
                await writer.drain()
                self.forwarded_bytes += len(piece)
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
        except OSError:
            connection.abort()

    async def _hold_up(self) -> None:
        """With a piece in hand: a link that nothing passes is not struck."""
        if time.monotonic() < self._until.get(Fault.DELAY, 0.0):
            self.injected[Fault.DELAY] += 1
            await asyncio.sleep(DELAY_SECONDS)
        if (left := self._until.get(Fault.STALL, 0.0) - time.monotonic()) > 0:
            self.injected[Fault.STALL] += 1
            await asyncio.sleep(left)

    def _damaged(self, piece: bytes) -> bytes:
        at = None if self._place is None else self._place(piece)
        if at is None:
            return piece
        self._place = None
        self.injected[Fault.CORRUPT] += 1
        flipped = bytearray(piece)
        flipped[at] ^= 1 << self._dice.randrange(8)
        return bytes(flipped)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
