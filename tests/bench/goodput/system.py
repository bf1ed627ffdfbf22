"""What all systems under measurement share: progress that is told, workers that are killed and replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.bench.goodput.account import Told

ROOT = Path(__file__).parents[3]
CLOSE_SECONDS = 30.0


class System(Protocol):
    """Processes that train until they are closed."""

    def told(self) -> list[Told]:
        """In order, what is new since this was last asked."""

    def kill(self, victim: float) -> bool:
        """One worker by SIGKILL, chosen by a number in [0, 1); False if none lives just now."""

    def close(self) -> None: ...


Make = Callable[[Path], System]
"""Starts it anew; what it stores goes into the folder."""


def module(name: str) -> list[str]:
    """What comes behind an interpreter to run a module of this package from the root of the repository."""
    return ["-m", f"tests.bench.goodput.{name}"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Fleet:
    """Workers that are replaced at once when they ended, killed or by themselves, as a cluster does."""

    def __init__(self, command: Callable[[int], list[str]], workers: int, log: Path) -> None:
        """`command`: of the worker with a number, which its successor inherits."""
        self._command, self._log = command, log
        self._workers = [self._start(number) for number in range(workers)]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command(number), cwd=ROOT, env=environment(), stdout=log, stderr=log
            )

    def mend(self) -> None:
        for number, worker in enumerate(self._workers):
            if worker.poll() is not None:
                self._workers[number] = self._start(number)

    def kill(self, victim: float) -> bool:
        worker = self._workers[int(victim * len(self._workers))]
        worker.kill()
        worker.wait()
        self.mend()
        return True

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()


class ProgressFile:
    """Reads what ranks append by `training.Progress`."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""

    def told(self) -> list[Told]:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return sorted((Told.of(line.decode()) for line in lines), key=lambda each: each.at)

    def close(self) -> None:
        self._file.close()


def children(parent: int, word: str) -> list[int]:
    """Process ids of those that `parent` started, oldest first, and whose command line holds `word`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == parent and fields[0] != "Z" and word in (entry / "cmdline").read_text():
                found.append((int(fields[19]), int(entry.name)))
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
    return [pid for _, pid in sorted(found)]


def import_seconds(processes: int) -> float:
    """Until so many processes that start together have all imported torch: what restarts are made of."""
    began = time.monotonic()
    started = [subprocess.Popen([sys.executable, "-c", "import torch"]) for _ in range(processes)]
    for process in started:
        process.wait()
    return time.monotonic() - began
