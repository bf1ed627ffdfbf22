"""The directory of one server process: locked while it runs, and the numbers that must never go back."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from sheepfold_server.shell.lock import Held, lock_directory
from sheepfold_server.shell.start import StartError
from sheepfold_server.storage.log.segment import make_directory, sync_directory

NUMBERS = "numbers.json"


@dataclass(slots=True)
class Numbers:
    """Terms of the coordinator and, with it, the newest incarnation of each shard."""

    term: int = 0
    incarnations: dict[int, int] = field(default_factory=dict)
    """By shard."""


class DataDir:
    """Held by one process at a time, by a lock that ends with it, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def take(self) -> None:
        """Make the directory and lock it; raises StartError, naming the holder if there is one."""
        try:
            make_directory(self.path)
            self._fd = lock_directory(self.path)
        except OSError as error:
            raise StartError(
                f"{self.path} cannot be used as data directory ({error.strerror}); give a writable one with "
                "--dir"
            ) from None
        except Held as holder:
            raise StartError(
                f"DATA_DIR_LOCKED: {self.path} is in use by the process with pid {holder}; stop that one or "
                "give another --dir"
            ) from None

    def numbers(self) -> Numbers:
        """As they were saved last; raises StartError if they cannot be read."""
        file = self.path / NUMBERS
        try:
            saved = json.loads(file.read_text("ascii"))
            return Numbers(
                int(saved["term"]), {int(key): int(value) for key, value in saved["incarnations"].items()}
            )
        except FileNotFoundError:
            return Numbers()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StartError(
                f"{file} is not as it was written ({error}); restore it from a copy: with a term that was "
                "used before, gradients could be counted twice"
            ) from None

    def save(self, numbers: Numbers) -> None:
        """On the disk when it returns; whole or not at all. Raises OSError."""
        text = json.dumps({"term": numbers.term, "incarnations": numbers.incarnations}) + "\n"
        write_whole(self.path / NUMBERS, text)

    def release(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def write_whole(file: Path, text: str) -> None:
    """ASCII, on the disk when it returns; whole or not at all. Raises OSError."""
    fresh = file.with_suffix(".new")
    with fresh.open("w", encoding="ascii") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(file)
    sync_directory(file.parent)
