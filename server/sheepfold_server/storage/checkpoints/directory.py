"""Files in a directory, which a kill or a power cut at any instant leaves whole or invisible."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from fsspec.implementations.local import LocalFileSystem

from sheepfold_server.storage.checkpoints.files import Bytes, Content, Files, IsSettled, Meter, NameOf
from sheepfold_server.storage.checkpoints.names import TEMPORARY

TOKEN_DIGITS = 8


class DirectoryFiles(Files):
    """Every write: temporary file, exclusive -> write -> fsync -> rename -> fsync directory -> read back."""

    errors_of_a_lost_file: ClassVar[frozenset[int]] = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})

    def __init__(self, root: str) -> None:
        super().__init__(LocalFileSystem(), root)

    def write(self, folder: str, name_of: NameOf, chunks: Iterable[Bytes]) -> tuple[str, Content]:
        """Stores a new file, reads it back, and returns its name, `name_of(token)`, and its content.

        Raises CheckpointNotStored; then nothing but an unreferenced file can be left, never a temporary one.
        """
        meter = Meter()
        with self._storing(name_of("*")):
            with self._temporary(folder) as temporary:
                _write_durably(temporary, meter.over(chunks))
                name = name_of(meter.content.sha256[:TOKEN_DIGITS])
                os.rename(temporary, self._path(name))
                sync_folder(self._path(folder))
            _forget_cached_pages(self._path(name))
            self._check_stored(name, meter.content)
        return name, meter.content

    def publish(self, folder: str, name: str, content: bytes, is_settled: IsSettled) -> None:
        """As `write`, under a given name, and atomically in place of what stands there."""
        self.write(folder, lambda token: name, [content])

    @contextmanager
    def _temporary(self, folder: str) -> Iterator[str]:
        """A free name in the folder, which is made durably; removed on failure if it is still there."""
        make_folders(self._path(folder))
        path = f"{self._path(folder)}/{TEMPORARY}{uuid.uuid4().hex}"
        try:
            yield path
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise

    def remove(self, name: str) -> None:
        """Removes a file for good; one that is gone already is no error."""
        path = self._path(name)
        with suppress(FileNotFoundError):
            os.unlink(path)
            sync_folder(os.path.dirname(path))

    def remove_empty(self, folder: str) -> None:
        """Removes a folder if it is empty."""
        with suppress(OSError):
            os.rmdir(self._path(folder))

    def modified_at(self, name: str) -> float | None:
        """Seconds since 1970, or None for a file that is gone."""
        with suppress(FileNotFoundError):
            return os.stat(self._path(name)).st_mtime
        return None


def _write_durably(path: str, chunks: Iterable[Bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for chunk in chunks:
            left = memoryview(chunk)
            while left:
                left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget_cached_pages(path: str) -> None:
    """Lets the read that follows come from the disk, where the system knows how."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def sync_folder(path: str) -> None:
    """Makes names in a folder survive a power cut: a rename alone may still be undone by one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: str) -> None:
    """Makes a folder and those above it; each new one is durable in the one above."""
    folder = Path(path)
    missing = [level for level in (folder, *folder.parents) if not level.is_dir()]
    for level in reversed(missing):
        level.mkdir(exist_ok=True)
        sync_folder(str(level.parent))
