"""Files below the checkpoint url: in a directory with a commit sequence, elsewhere as objects."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, ClassVar

from fsspec import AbstractFileSystem

from sheepfold_server.storage.checkpoints.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointNotStored,
)
from sheepfold_server.storage.checkpoints.tensors import CHUNK_BYTES

Bytes = bytes | memoryview
NameOf = Callable[[str], str]
IsSettled = Callable[[bytes], bool]

EXCLUSIVE_PROTOCOLS = frozenset({"s3", "s3a"})
"""Drivers whose `create` is one conditional put, and not a look followed by a put."""
PROBE = "probe-"
PROBE_WRITERS = 4


@dataclass(frozen=True, slots=True)
class Content:
    """What identifies the content of a file."""

    bytes: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.bytes} bytes of SHA-256 {self.sha256}"


class Meter:
    """Counts and digests what passes."""

    def __init__(self) -> None:
        self._bytes = 0
        self._sha256 = hashlib.sha256()

    def over(self, chunks: Iterable[Bytes]) -> Iterator[Bytes]:
        """The chunks themselves, each counted before it is handed on."""
        for chunk in chunks:
            self._bytes += len(chunk)
            self._sha256.update(chunk)
            yield chunk

    @property
    def content(self) -> Content:
        """What has passed so far."""
        return Content(self._bytes, self._sha256.hexdigest())


def content_of(content: bytes) -> Content:
    """Of a file that is in memory."""
    return Content(len(content), hashlib.sha256(content).hexdigest())


class Files:
    """Objects of a store without rename. All names are relative to `root`, which lies in `filesystem`.

    A put may fail and have stored something all the same, whole or cut; hence names that nothing else uses.
    Errors of the store itself, such as a refused login, pass through as they are.
    """

    errors_of_a_lost_file: ClassVar[frozenset[int]] = frozenset()
    """The errno of a read that fails for good, and not for a while only. Stores say EIO for anything."""

    def __init__(self, filesystem: AbstractFileSystem, root: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._is_exclusive: bool | None = None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    # --- writing ----------------------------------------------------------------------------------------

    def write(self, folder: str, name_of: NameOf, chunks: Iterable[Bytes]) -> tuple[str, Content]:
        """Stores a new file, reads it back, and returns its name, `name_of(token)`, and its content.

        Raises CheckpointNotStored; then nothing but an unreferenced object can be left.
        """
        name = name_of(secrets.token_hex(8))
        meter = Meter()
        with self._storing(name):
            try:
                with self._filesystem.open(self._path(name), "wb") as file:
                    for chunk in meter.over(chunks):
                        file.write(chunk)
                self._check_stored(name, meter.content)
            except Exception:
                with suppress(Exception):
                    self.remove(name)
                raise
        return name, meter.content

    def publish(self, folder: str, name: str, content: bytes, is_settled: IsSettled) -> None:
        """Stores a small file whole under a name that a writer before may have used, and reads it back.

        What stands there is left alone where `is_settled` of it is true, or raises, and overwritten only
        where it is false. Raises CheckpointNotStored; the file may be there all the same, and the next call
        finds out.
        """
        with self._storing(name):
            standing = self._standing(name)
            if standing is not None and is_settled(standing):
                return
            is_exclusive = standing is None and self._creates_exclusively(folder)
            # A driver that repeats a put of its own finds what its first one left.
            with suppress(FileExistsError):
                mode = {"mode": "create"} if is_exclusive else {}
                self._filesystem.pipe_file(self._path(name), content, **mode)
            standing = self._standing(name)
            if standing is None or not is_settled(standing):
                raise CheckpointNotStored(name, content_of(content), content_of(standing or b""))

    def _standing(self, name: str) -> bytes | None:
        try:
            with self.open(name) as file:
                return file.read()
        except CheckpointCorrupt:
            return None

    def _creates_exclusively(self, folder: str) -> bool:
        """Whether of several writers of one name exactly one succeeds here.

        Known drivers only: fsspec's own `create` looks first and writes then, which no trial one after the
        other can tell from the real thing. And tried at once by some, since servers differ behind a driver.
        """
        if self._is_exclusive is None:
            self._is_exclusive = self._is_of(EXCLUSIVE_PROTOCOLS) and self._wins_once(folder)
        return self._is_exclusive

    def _is_of(self, protocols: frozenset[str]) -> bool:
        protocol = self._filesystem.protocol
        return not protocols.isdisjoint([protocol] if isinstance(protocol, str) else protocol)

    def _wins_once(self, folder: str) -> bool:
        """Lets a few create the same object at the same time, and removes it."""
        name = f"{folder}/{PROBE}{secrets.token_hex(8)}"

        def wins(writer: int) -> bool:
            try:
                self._filesystem.pipe_file(self._path(name), b"%d" % writer, mode="create")
            except FileExistsError:
                return False
            return True

        try:
            with ThreadPoolExecutor(PROBE_WRITERS) as writers:
                return sum(writers.map(wins, range(PROBE_WRITERS))) == 1
        finally:
            with suppress(Exception):
                self.remove(name)

    @contextmanager
    def _storing(self, name: str) -> Iterator[None]:
        try:
            yield
        except CheckpointNotStored:
            raise
        except CheckpointCorrupt as error:
            raise CheckpointNotStored(name, "the file to read back", error) from error
        except CheckpointError:
            raise
        except Exception as error:  # every store has errors of its own
            raise CheckpointNotStored(name, "a complete write", repr(error)) from error

    def _check_stored(self, name: str, meant: Content) -> None:
        found = self.content(name)
        if found != meant:
            raise CheckpointNotStored(name, meant, found)

    # --- reading ----------------------------------------------------------------------------------------

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A file to read, without read-ahead. Raises CheckpointCorrupt where there is none."""
        self._filesystem.invalidate_cache()  # drivers take lengths out of old listings
        with self.reading(name), self._filesystem.open(self._path(name), "rb", cache_type="none") as file:
            yield file

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Turns the error of a file that is gone, or lost for good, into CheckpointCorrupt."""
        try:
            yield
        except FileNotFoundError:
            raise CheckpointCorrupt(name, "a file", "none") from None
        except OSError as error:
            if error.errno not in self.errors_of_a_lost_file:
                raise
            raise CheckpointCorrupt(name, "a file that can be read", error) from error

    def content(self, name: str) -> Content:
        """Reads the whole file."""
        meter = Meter()
        with self.open(name) as file:
            for _ in meter.over(iter(lambda: file.read(CHUNK_BYTES), b"")):
                pass
        return meter.content

    def size(self, name: str) -> int:
        """Length in bytes. Raises CheckpointCorrupt where there is no file."""
        self._filesystem.invalidate_cache()
        with self.reading(name):
            return int(self._filesystem.size(self._path(name)))

    # --- folders ----------------------------------------------------------------------------------------

    def names(self, folder: str, kind: str = "file") -> list[str]:
        """Last parts of the names in a folder, sorted; of files, or with kind "directory" of folders."""
        self._filesystem.invalidate_cache()  # an index that was just written must be seen
        try:
            found: list[dict[str, Any]] = self._filesystem.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(str(e["name"]).rstrip("/").rsplit("/", 1)[-1] for e in found if e["type"] == kind)

    def remove(self, name: str) -> None:
        """Removes a file for good; one that is gone already is no error."""
        with suppress(FileNotFoundError):
            self._filesystem.rm_file(self._path(name))

    def remove_empty(self, folder: str) -> None:
        """Removes a folder if it is empty. A store of objects has none."""

    def modified_at(self, name: str) -> float | None:
        """Seconds since 1970, or None for a file that is gone, and for every object."""
        return None


def read_into(file: IO[bytes], start: int, target: memoryview, name: str) -> None:
    """Fills `target` from byte `start` on, at most 8 MiB a request; raises CheckpointCorrupt if it ends."""
    file.seek(start)
    done = 0
    while done < len(target):
        read = file.read(min(CHUNK_BYTES, len(target) - done))
        if not read:
            raise CheckpointCorrupt(name, f"{len(target)} bytes from byte {start} on", f"{done} bytes")
        target[done : done + len(read)] = read
        done += len(read)
