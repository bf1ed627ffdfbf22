"""One child process of `sheepfold up`: started, heard from once, watched, stopped."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.tether import tethered

ANNOUNCE_SECONDS_MAX = 120.0
POLL_SECONDS = 0.1
LOG_TAIL_BYTES = 8192


class Interrupted(Exception):
    """The user wants to stop before everything had started."""


class Child:
    """`python -m sheepfold_server ROLE ...`, killed by the kernel if this process dies."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name, self.log = name, log
        self.address = ""
        self.others: tuple[str, ...] = ()
        """Further addresses that it serves on."""
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._announced = -1

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    def start(self, *extra: str) -> None:
        """Start it, from the main thread: it would die with any other. Its output is added to its log."""
        reader, writer = os.pipe()
        command = [
            sys.executable,
            "-m",
            "sheepfold_server",
            *self._arguments,
            *extra,
            "--announce-fd",
            str(writer),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                tethered(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(writer,),
                start_new_session=True,  # ctrl-C in the terminal is for the supervisor alone
            )
        os.close(writer)
        self._announced = reader

    def await_address(self, stopped: threading.Event) -> None:
        """Wait until the child says where it serves; raises StartError (its last words) or Interrupted."""
        deadline = time.monotonic() + ANNOUNCE_SECONDS_MAX
        while not select.select([self._announced], [], [], POLL_SECONDS)[0]:
            if stopped.is_set():
                raise Interrupted
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} did not start in {ANNOUNCE_SECONDS_MAX:.0f} s; see {self.log}")
        if not self._hear():
            self.wait(5.0)
            raise StartError(self.last_words() or f"{self.name} ended before it served; see {self.log}")

    def has_announced(self) -> bool:
        """Whether a child that was started again serves now; it is asked until it says so."""
        if self._announced < 0 or not select.select([self._announced], [], [], 0.0)[0]:
            return False
        return self._hear()

    def _hear(self) -> bool:
        """Take what it has said, its addresses; False if it has ended without a word."""
        addresses = os.read(self._announced, 256).decode("ascii", "replace").split()
        os.close(self._announced)
        self._announced = -1
        if addresses:
            self.address, self.others = addresses[0], tuple(addresses[1:])
        return bool(addresses)

    def exit_code(self) -> int | None:
        """None while it runs; -N if signal N ended it."""
        return None if self._process is None else self._process.poll()

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait at most that long, then kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        return last_line(self.log)


def last_line(log: Path) -> str:
    """The last line of a log, without our own prefix; empty if there is none."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].removeprefix("sheepfold: ") if lines else ""
    return ""


def ended(name: str, pid: int, code: int) -> str:
    """How a process came to its end, as the beginning of a sentence."""
    return f"{name} (pid {pid}) died with exit code {code}{f' ({_signal_name(code)})' if code < 0 else ''}"


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def announcer(fd: int) -> Callable[[str], None]:
    """The child's side: say the address to whoever holds the other end of `fd`; does nothing for -1."""

    def announce(address: str) -> None:
        nonlocal fd
        if fd >= 0:
            os.write(fd, f"{address}\n".encode("ascii"))
            os.close(fd)
            fd = -1

    return announce
