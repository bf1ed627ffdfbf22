"""A system under measurement: processes that make one step when told to, and what they cost."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tests.bench.step.given import Flat, Given

ANSWER_SECONDS = 300.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
spawning = multiprocessing.get_context("spawn")


class Rank(Protocol):
    """One worker's side, in a process of its own."""

    def step(self) -> None:
        """Push this rank's gradient; returns once the new weights are in place here."""

    def weights(self) -> Flat:
        """(elements,): a copy of what is in place."""

    def close(self) -> None: ...


MakeRank = Callable[..., Rank]
"""Called in the process with (given, rank, workers, *arguments)."""


def serve(pipe: Connection, make: MakeRank, arguments: tuple[Any, ...]) -> None:
    """The main function of a rank's process: does as it is told until the pipe says to end."""
    rank = make(*arguments)
    pipe.send("ready")
    while (told := pipe.recv()) != "end":
        if told == "step":
            rank.step()
            pipe.send("done")
        else:
            np.save(told, rank.weights())
            pipe.send("saved")
    rank.close()


class System:
    """n ranks and, perhaps, servers."""

    def __init__(
        self,
        label: dict[str, Any],
        given: Given,
        make: MakeRank,
        arguments: Sequence[Any],
        servers: int = 0,
    ) -> None:
        """`label`: system, workers, shards, codec, transport, durability. `servers`: ranks beside workers."""
        self.label, self.given, self._servers = label, given, servers
        workers = int(label["workers"]) + servers
        self._pipes: list[Any] = []
        self._processes = []
        for rank in range(workers):
            ours, theirs = spawning.Pipe()
            told = (given, rank, workers, *arguments)
            process = spawning.Process(target=serve, args=(theirs, make, told), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._expect("ready")

    def server_pids(self) -> list[int]:
        """Of processes beside the workers."""
        return self._pids()[len(self._processes) - self._servers :]

    def worker_pids(self) -> list[int]:
        return self._pids()[: len(self._processes) - self._servers]

    def _pids(self) -> list[int]:
        return [int(process.pid or 0) for process in self._processes]

    def step(self) -> None:
        for pipe in self._pipes:
            pipe.send("step")
        self._expect("done")

    def weights(self, directory: Path) -> Flat:
        """Of the last rank."""
        path = directory / "weights.npy"
        self._pipes[-1].send(str(path))
        self._heard(self._pipes[-1], "saved")
        found: Flat = np.load(path)
        return found

    def _expect(self, word: str) -> None:
        for pipe in self._pipes:
            self._heard(pipe, word)

    def _heard(self, pipe: Any, word: str) -> None:
        if not pipe.poll(ANSWER_SECONDS):
            raise SystemExit(f"{self.label}: no {word!r} within {ANSWER_SECONDS:.0f} s")
        try:
            found = pipe.recv()
        except EOFError:
            raise SystemExit(f"{self.label}: a worker died; its error stands above") from None
        assert found == word, found

    def close(self) -> None:
        for pipe in self._pipes:
            with suppress(BrokenPipeError):  # it died, and its error stands above
                pipe.send("end")
        for process in self._processes:
            process.join(30)


def cpu_seconds(pids: list[int]) -> float:
    """User and system time so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS_PER_SECOND


def peak_mb(pids: list[int]) -> float:
    """The largest resident set that any of them has had, in MiB; 0 for no process."""
    found = [0.0]
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    return max(found)


def wire_bytes() -> int:
    """Bytes that went over the loopback interface so far, headers included."""
    line = next(x for x in Path("/proc/net/dev").read_text().splitlines() if x.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])
