"""The directory of one `sheepfold up`: its lock, what runs in it, and the logs of its processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sheepfold_server.shell.lock import Held, lock_directory
from sheepfold_server.shell.start import StartError


class StateDir:
    """Held by one process at a time.

    `up.json` says what runs; `logs/` has one file per role; `history.sqlite` is the dashboard's. `connection`
    holds what workers need in $SHEEPFOLD, for its owner alone, and `admin` what administrators need;
    `SHEEPFOLD=file:PATH` names them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.connection = path / "connection"
        self.admin = path / "admin"
        self.history = path / "history.sqlite"
        self._up_file = path / "up.json"
        self._lock_fd = -1

    def take(self) -> None:
        """Make the directory and lock it; raises StartError, naming the holder if there is one."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            self._lock_fd = lock_directory(self.path)
        except OSError as error:
            raise StartError(
                f"{self.path} cannot be used as state directory ({error.strerror}); "
                "give a writable one with --dir"
            ) from None
        except Held as holder:
            raise StartError(
                f"{self.path} is in use by `sheepfold up` with pid {holder}; "
                "stop that one or give another --dir"
            ) from None

    def write_up(self, processes: dict[str, Any], connection: str, admin: str) -> None:
        """Replace all files whole, so that a reader never sees half of one."""
        write_secret(self.connection, f"{connection}\n".encode("ascii"))
        write_secret(self.admin, f"{admin}\n".encode("ascii"))
        fresh = self._up_file.with_suffix(".json.new")
        fresh.write_text(json.dumps(processes, indent=2) + "\n", "utf-8")
        fresh.replace(self._up_file)

    def release(self) -> None:
        """Nothing runs here any more."""
        if self._lock_fd >= 0:
            self._up_file.unlink(missing_ok=True)
            self.connection.unlink(missing_ok=True)
            self.admin.unlink(missing_ok=True)
            os.close(self._lock_fd)
            self._lock_fd = -1


def write_secret(file: Path, content: bytes) -> None:
    """Whole or not at all, and never readable by others."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as opened:
        opened.write(content)
    fresh.replace(file)
