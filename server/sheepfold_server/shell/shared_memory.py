"""Memory of workers on the shard's own host: a socket where they hand it over, and what was handed over.

One thread has the socket. A region is held for as long as its worker's connection lives, so that nothing is
left of a worker that was killed; the socket has no file, so that nothing is left of a shard either.
"""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import xxhash

import sheepfold_wire.messages as m
from sheepfold_server.shell.open_files import connections_max
from sheepfold_wire.codecs import Buffer
from sheepfold_wire.errors import BadFrame, Overloaded, RegionGone
from sheepfold_wire.regions import (
    ANSWER_BYTES_MAX,
    KEY_BYTES,
    Seen,
    abstract,
    boot_id,
    is_sealed,
    read_region,
    write_region,
)

log = logging.getLogger(__name__)

REGIONS_MAX = 256
"""Of all workers together; each is two files."""
KEYS_MAX = 64
KEY_SECONDS = 10.0
SILENT_MAX = 16
"""Connections that have handed over nothing yet."""
SILENT_SECONDS = 2.0
PAUSE_SECONDS = 1.0
"""After a connection could not be accepted: most likely the process has no file left."""
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Region:
    """A memfd of a worker."""

    descriptor: int
    size: int
    connection: socket.socket


class NotTaken(Exception):
    """Why a region is refused, in words for whoever hands it over."""


class Regions:
    """The regions of one shard process. Any thread may read and write them."""

    def __init__(
        self,
        owners: frozenset[int] = frozenset({0, os.geteuid()}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`owners`: ids of the users whose memory is taken."""
        self._owners, self._clock = owners, clock
        self._regions_max = min(REGIONS_MAX, connections_max() // 4)
        self._lock = threading.Lock()
        self._keys: dict[bytes, float] = {}
        self._held: dict[int, Region] = {}
        self._silent: dict[socket.socket, float] = {}
        """Until when each may stay so; of the thread alone."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shared-memory", daemon=True)
        self._name = f"sheepfold-{secrets.token_hex(16)}"
        self._host = ""
        """This host's boot id, once there is a socket."""
        self._selector = selectors.DefaultSelector()
        self._listening: socket.socket | None = None

    @property
    def count(self) -> int:
        with self._lock:
            return len(self._held)

    def start(self) -> None:
        """From here on workers are told where to come."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listening.bind(abstract(self._name))
            listening.listen(SILENT_MAX)
        except OSError as error:
            log.info("memory cannot be shared with workers here, payloads go over gRPC: %s", error)
            listening.close()
            return
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._listening, self._host = listening, boot_id()
        self._thread.start()

    def close(self) -> None:
        """Lets go of all regions."""
        self._closing.set()
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._thread.join()
            self._listening.close()
        with self._lock:
            held, self._held = self._held, {}
        for region in held.values():
            _let_go(region)
        for connection in self._silent:
            connection.close()
        self._selector.close()

    # --- for calls ------------------------------------------------------------------------------------

    def invite(self) -> m.ShareReply:
        """A key for one region. Raises Overloaded."""
        if not self._host:
            return m.ShareReply("", "", b"")
        now, key = self._clock(), secrets.token_bytes(KEY_BYTES)
        with self._lock:
            self._keys = {known: due for known, due in self._keys.items() if due > now}
            if len(self._keys) >= KEYS_MAX:
                raise Overloaded(
                    f"{KEYS_MAX} keys for memory were given out in {KEY_SECONDS:.0f} s and not used; send "
                    "frames, or ask again later"
                )
            self._keys[key] = now + KEY_SECONDS
        return m.ShareReply(self._host, self._name, key)

    def read(self, number: int, into: Buffer, seen: Seen) -> None:
        """Copies the start of a region; `seen` is told of the copy. Raises RegionGone, BadFrame."""
        with self._borrowed(number, len(into)) as descriptor:
            read_region(descriptor, into, seen)

    def write(self, number: int, payload: Buffer) -> int:
        """Copies a payload to a region's start; returns its XXH3-64. Raises RegionGone, BadFrame."""
        checksum = xxhash.xxh3_64()
        with self._borrowed(number, len(payload)) as descriptor:
            write_region(descriptor, payload, checksum.update)
        return checksum.intdigest()

    @contextmanager
    def _borrowed(self, number: int, size: int) -> Iterator[int]:
        """A descriptor of the caller's own: the region's may be closed, and its number go to another file."""
        try:
            with self._lock:
                region = self._held.get(number)
                descriptor = None if region is None else os.dup(region.descriptor)
        except OSError as error:
            raise RegionGone(f"the region cannot be opened here ({error.strerror}); send frames") from None
        if region is None or descriptor is None:
            raise RegionGone("this shard holds no such region; send frames, or hand over another one")
        try:
            if size > region.size:
                raise BadFrame(
                    f"the region has {region.size} bytes, the payload {size}; hand over a longer one"
                )
            yield descriptor
        except (OSError, EOFError) as error:
            raise RegionGone(f"the region cannot be read or written ({error}); send frames") from None
        finally:
            os.close(descriptor)

    # --- the socket's thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            for key, _ in self._selector.select(SILENT_SECONDS if self._silent else None):
                key.data(key.fileobj)
            now = self._clock()
            for connection in [each for each, due in self._silent.items() if due <= now]:
                self._dismiss(connection, f"no region came within {SILENT_SECONDS:.0f} s")

    def _accept(self, listening: socket.socket) -> None:
        if self._closing.is_set():
            return
        try:
            connection, _ = listening.accept()
        except OSError as error:
            log.warning("no worker's memory can be taken for a moment: %s", error)
            self._closing.wait(PAUSE_SECONDS)
            return
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, self._take)
        self._silent[connection] = self._clock() + SILENT_SECONDS
        if (user := _user_of(connection)) not in self._owners:
            self._dismiss(
                connection, f"the memory of user {user} is not taken: the shard's is {os.geteuid()}"
            )
        elif len(self._silent) > SILENT_MAX:
            self._dismiss(connection, f"{SILENT_MAX} others have come and not handed over theirs; try later")

    def _take(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        try:
            key, descriptors, _, _ = socket.recv_fds(connection, KEY_BYTES + 1, 1, socket.MSG_CMSG_CLOEXEC)
            number = self._checked(key, descriptors, connection)
        except (OSError, NotTaken) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            self._dismiss(connection, str(error))
            return
        del self._silent[connection]
        self._selector.modify(connection, selectors.EVENT_READ, lambda _: self._end(number))
        try:
            connection.send(str(number).encode())
        except OSError:
            self._end(number)

    def _checked(self, key: bytes, descriptors: list[int], connection: socket.socket) -> int:
        """The number of a region that is held from now on. Raises NotTaken."""
        with self._lock:
            if self._keys.pop(key, 0.0) <= self._clock():
                raise NotTaken(f"the key is none of this shard's, was used, or is {KEY_SECONDS:.0f} s old")
            if not descriptors or not is_sealed(descriptors[0]):
                raise NotTaken(
                    "a region is one memfd, sealed against growing, shrinking and other seals only"
                )
            if len(self._held) >= self._regions_max:
                raise NotTaken(f"this shard holds {self._regions_max} regions, and no more than that")
            number, size = secrets.randbits(62) + 1, os.fstat(descriptors[0]).st_size
            self._held[number] = Region(descriptors[0], size, connection)
        log.info("%d bytes of memory are shared with a worker of this host", size)
        return number

    def _end(self, number: int) -> None:
        """Its worker has gone, or says something, which it has no reason to."""
        with self._lock:
            region = self._held.pop(number)
        self._selector.unregister(region.connection)
        _let_go(region)

    def _dismiss(self, connection: socket.socket, why: str) -> None:
        log.info("memory is refused: %s", why)
        del self._silent[connection]
        self._selector.unregister(connection)
        with suppress(OSError):
            connection.send(why.encode()[:ANSWER_BYTES_MAX])
        connection.close()


def _let_go(region: Region) -> None:
    region.connection.close()
    os.close(region.descriptor)


def _user_of(connection: socket.socket) -> int:
    """Id of the user whose process connected."""
    told: Any = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(told)[1])
