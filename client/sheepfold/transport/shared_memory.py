"""Memory shared with the shards of this host, so that payloads need not go through sockets.

Everything else of a call stays as it is. Whatever stands in the way here, the payload goes in frames.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import xxhash

import sheepfold_wire.messages as m
from sheepfold.transport import TransportError
from sheepfold_wire.codecs import Buffer
from sheepfold_wire.errors import ChunkChecksumMismatch, NotReady, Overloaded, RegionGone, SheepfoldError
from sheepfold_wire.regions import ANSWER_BYTES_MAX, abstract, boot_id, make_region

log = logging.getLogger("sheepfold")

VARIABLE = "SHEEPFOLD_SHARED_MEMORY"
HANDOVER_SECONDS = 2.0
REGIONS_MAX = 2
"""Of one shard: a push and a pull may be under way at once, and be of two lengths."""
SIZES_KEPT = 8

Ask = Callable[[m.ShardAddress], m.ShareReply]
"""The shard's answer to Share. Raises SheepfoldError, TransportError."""


class NotShared(Exception):
    """Why payloads of a shard go in frames. `level`: of the log, for what somebody may have to look at."""

    def __init__(self, why: str, level: int = logging.WARNING) -> None:
        super().__init__(why)
        self.level = level


class Region:
    """A memfd that a shard holds too, for one call at a time; mapped here, where all of it was made."""

    def __init__(self, number: int, size: int, memory: mmap.mmap, connection: socket.socket) -> None:
        self.number, self.size, self.memory = number, size, memory
        self._connection = connection

    @property
    def is_read(self) -> bool:
        """Whether nobody has a view of its memory: a pull's payload may be read until it is let go of."""
        return sys.getrefcount(self.memory) == _UNUSED

    @property
    def is_held(self) -> bool:
        """Whether the shard has it still: it is silent on the connection, and closes it when it lets go."""
        try:
            self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def write(self, payload: Buffer) -> None:
        """To its start, if it does not lie there already."""
        with memoryview(payload) as view, view.cast("B") as whole:
            if not self.holds(whole):
                self.memory[: len(whole)] = whole

    def holds(self, payload: memoryview) -> bool:
        """Whether it is a view of all of this memory."""
        return payload.obj is self.memory and len(payload) == self.size

    def payload(self, size: int, checksum: int) -> memoryview:
        """So many bytes that the shard wrote, in place. Raises ChunkChecksumMismatch for another call's."""
        view = memoryview(self.memory)[:size]
        found = xxhash.xxh3_64(view)
        if found.intdigest() != checksum:
            raise ChunkChecksumMismatch(
                f"shared memory of {len(view)} bytes has XXH3 {found.hexdigest()}, written as "
                f"{checksum:016x}; pull again"
            )
        return view

    def close(self) -> None:
        """The shard lets go of it when it sees the connection end."""
        self._connection.close()
        with suppress(BufferError):  # else it goes with the last view of it
            self.memory.close()


def _references(memory: list[object]) -> int:
    """CPython's count for what an attribute, here an item, refers to."""
    return sys.getrefcount(memory[0])


_UNUSED = _references([object()])
"""The count of memory that only its region refers to."""


def hand_over(reply: m.ShareReply, size: int) -> Region:
    """A new region that the shard holds. Raises NotShared."""
    try:
        descriptor = make_region(size)
    except (OSError, AttributeError) as error:
        raise NotShared(f"no memory of {size} bytes can be made for it ({error})") from None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        memory = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        number = _number(connection, reply, descriptor)
    except OSError as error:
        connection.close()
        raise NotShared(f"no memory of {size} bytes can be mapped ({error})") from None
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(descriptor)
    return Region(number, size, memory, connection)


def _number(connection: socket.socket, reply: m.ShareReply, descriptor: int) -> int:
    """What the shard calls the region from now on. Raises NotShared."""
    connection.settimeout(HANDOVER_SECONDS)
    try:
        connection.connect(abstract(reply.socket))
        with suppress(BrokenPipeError):  # it may have refused already, and said why
            socket.send_fds(connection, [reply.key], [descriptor])
        answer = _heard(connection)
    except OSError as error:
        why = f"its socket cannot be reached ({error}), as from another container of its host"
        raise NotShared(why, logging.INFO) from None
    if not (answer.isascii() and answer.isdigit()):
        raise NotShared(f"it refuses: {answer or 'without a word'}")
    connection.setblocking(False)
    return int(answer)


def _heard(connection: socket.socket) -> str:
    """The shard's answer; that it closed before it had read all is told first, and once."""
    with suppress(ConnectionResetError):
        return connection.recv(ANSWER_BYTES_MAX).decode("utf-8", "replace")
    return connection.recv(ANSWER_BYTES_MAX).decode("utf-8", "replace")


class ShardRegions:
    """The regions shared with one process of a shard, lent to one call each."""

    def __init__(self, address: m.ShardAddress, ask: Ask) -> None:
        self.incarnation = address.incarnation
        self._address, self._ask = address, ask
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._lent = 0
        self._packing: Region | None = None
        """What parts are packed into: of nobody else's."""
        self._sizes: list[int] = []
        """Of payloads that came before: one that comes once is not worth a region."""
        self._is_given_up = self._is_said = False

    @property
    def has_any(self) -> bool:
        with self._lock:
            return bool(self._free) or self._lent > 0 or self._packing is not None

    def room(self, size: int) -> memoryview | None:
        """Memory of exactly this size to pack a part into; None: it is copied, or goes in frames."""
        with self._lock:
            if self._is_given_up or not self._is_known(size):
                return None
            region = self._packing
        if region is None or region.size != size or not region.is_held:
            self._drop_packing()
            try:
                region = self._opened(size)
            except NotShared as error:
                self.give_up(str(error), error.level)
                return None
            with self._lock:
                self._packing = region
        return None if region is None else memoryview(region.memory)

    def packed(self, payload: Buffer) -> Region | None:
        """The region that a part was packed into, if it is held still."""
        with self._lock:
            region = self._packing
        if region is None or not region.holds(memoryview(payload)) or not region.is_held:
            return None
        return region

    def _drop_packing(self) -> None:
        with self._lock:
            region, self._packing = self._packing, None
        if region is not None:
            region.close()

    def take(self, size: int) -> Region | None:
        """One of exactly this size; None where the payload is to go in frames."""
        with self._lock:
            if self._is_given_up or not self._is_known(size):
                return None
            region = self._found(size)
            if region is None and self._lent + len(self._free) >= REGIONS_MAX and not self._make_room():
                return None
            self._lent += 1
        try:
            if region is None:
                region = self._opened(size)
            elif not region.is_held:
                region.close()
                raise NotShared("it has let go of the memory shared with it", logging.INFO)
        except NotShared as error:
            region = None
            self.give_up(str(error), error.level)
        if region is None:
            with self._lock:
                self._lent -= 1
        return region

    def give_back(self, region: Region, is_sound: bool) -> None:
        """After its call; `is_sound`: whether the shard has surely done with it."""
        if region is self._packing:
            if not is_sound:
                self._drop_packing()
            return
        with self._lock:
            self._lent -= 1
            keeps = is_sound and not self._is_given_up
            if keeps:
                self._free.append(region)
        if not keeps:
            region.close()

    def give_up(self, why: str, level: int) -> None:
        """Frames from here on, for as long as this shard process lives; said once."""
        with self._lock:
            is_news, self._is_given_up = not self._is_given_up, True
            free, self._free = self._free, []
        self._drop_packing()
        for region in free:
            region.close()
        if is_news and why:
            log.log(level, "payloads of shard %d go over gRPC: %s", self._address.shard, why)

    def _is_known(self, size: int) -> bool:
        if size in self._sizes:
            return True
        self._sizes = [*self._sizes[1 - SIZES_KEPT :], size]
        return False

    def _found(self, size: int) -> Region | None:
        for at, region in enumerate(self._free):
            if region.size == size and region.is_read:
                return self._free.pop(at)
        return None

    def _make_room(self) -> bool:
        """Close a region of another size, if none uses it."""
        if self._free:
            self._free.pop(0).close()
            return True
        return False

    def _opened(self, size: int) -> Region | None:
        """A new one; None if it cannot be had at the moment. Raises NotShared."""
        try:
            reply = self._ask(self._address)
            if not reply.boot_id or reply.boot_id != boot_id():
                raise NotShared("it is on another host, or takes no memory", logging.INFO)
            region = hand_over(reply, size)
        except (TransportError, NotReady, Overloaded):
            return None  # perhaps at another call
        except SheepfoldError as error:
            raise NotShared(f"it takes no memory ({error})", logging.INFO) from None
        if not self._is_said:
            log.info("payloads of shard %d go through shared memory", self._address.shard)
        self._is_said = True
        return region


class SharedMemory:
    """The regions of one transport, by shard."""

    def __init__(self, ask: Ask, environ: Mapping[str, str]) -> None:
        """SHEEPFOLD_SHARED_MEMORY=0 in `environ`: there are none."""
        self._ask, self._is_off = ask, environ.get(VARIABLE) == "0"
        self._lock = threading.Lock()
        self._shards: dict[str, ShardRegions] = {}

    @contextmanager
    def lent(self, address: m.ShardAddress, size: int, payload: Buffer = b"") -> Iterator[Region | None]:
        """A region of exactly this size for one call to a shard, `payload`'s own if it has one; None: send
        frames.

        A call that ends by RegionGone gives memory up for this shard process. After any end but an answer the
        shard may still be at the region, which is then not used again.
        """
        shard = None if self._is_off or size == 0 else self._shard(address)
        region = None if shard is None else shard.packed(payload) or shard.take(size)
        if shard is None or region is None:
            yield None
            return
        is_sound = False
        try:
            yield region
            is_sound = True
        except RegionGone as error:
            shard.give_up(str(error), logging.WARNING)
            raise
        finally:
            shard.give_back(region, is_sound)

    def room(self, address: m.ShardAddress, size: int) -> memoryview | None:
        """See `ShardRegions.room`."""
        return None if self._is_off or size == 0 else self._shard(address).room(size)

    def is_used(self, address: m.ShardAddress) -> bool:
        """Whether the shard holds a region of ours."""
        with self._lock:
            shard = self._shards.get(address.address)
        return shard is not None and shard.has_any

    def close(self) -> None:
        """Those under way are closed as their calls end."""
        with self._lock:
            self._is_off = True
            shards, self._shards = list(self._shards.values()), {}
        for shard in shards:
            shard.give_up("", logging.DEBUG)

    def _shard(self, address: m.ShardAddress) -> ShardRegions:
        with self._lock:
            known = self._shards.get(address.address)
            if known is not None and known.incarnation == address.incarnation:
                return known
            fresh = self._shards[address.address] = ShardRegions(address, self._ask)
        if known is not None:
            known.give_up("", logging.DEBUG)
        return fresh
