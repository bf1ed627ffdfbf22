"""The demo's client processes: workers and the evaluator. They are programs of the client package."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sheepfold_server.cli.demo.plan import EVALUATE_STEPS, JOB, DataFacts, DemoPlan
from sheepfold_server.shell.child import Interrupted, ended, last_line
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.tether import tethered

DESCRIBE_SECONDS_MAX = 60.0
STOP_SECONDS = 5.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class DemoFailed(Exception):
    """The demo cannot end as it should; one sentence why."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A line of the evaluator. Only the last one, of the final version, has a digest."""

    version: int
    accuracy: float
    digest: str = ""


def describe_data(plan: DemoPlan) -> DataFacts:
    """Which data set the workers would load; raises StartError."""
    command = [sys.executable, "-m", "sheepfold.demo.describe", *_data_arguments(plan)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DESCRIBE_SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise StartError(f"reading the data set took more than {DESCRIBE_SECONDS_MAX:.0f} s") from None
    if done.returncode < 0:  # ctrl-C reaches this one too
        raise Interrupted
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["the data set cannot be read"]
        raise StartError(lines[-1].removeprefix("sheepfold: "))
    return DataFacts(**json.loads(done.stdout))


def _data_arguments(plan: DemoPlan) -> list[str]:
    return [] if plan.data_dir is None else ["--data-dir", str(plan.data_dir)]


class Fleet:
    """Workers come and go; the evaluator stays. Start processes from the main thread: they die with it."""

    def __init__(self, plan: DemoPlan, address: str, logs: Path) -> None:
        self._plan, self._address, self._logs = plan, address, logs
        self._workers: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._killed: set[int] = set()
        self._evaluator: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._count = 0

    def start_worker(self) -> int:
        """Start one more worker; returns its pid."""
        self._count += 1
        name = f"worker-{self._count}"
        worker = self._start(
            "sheepfold.demo.worker", name, subprocess.DEVNULL, "--seed", str(self._plan.seed)
        )
        self._workers.append((name, worker))
        return worker.pid

    def start_evaluator(self) -> None:
        self._evaluator = self._start(
            "sheepfold.demo.evaluate",
            "evaluate",
            subprocess.PIPE,
            "--every",
            str(EVALUATE_STEPS),
            "--until",
            str(self._plan.steps),
        )
        assert self._evaluator.stdout is not None
        threading.Thread(
            target=self._read, args=(self._evaluator.stdout,), name="evaluations", daemon=True
        ).start()

    def _start(self, module: str, name: str, stdout: int, *extra: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", module, "--address", self._address, "--job", JOB]
        with (self._logs / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                tethered([*command, *_data_arguments(self._plan), *extra]),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,
            )

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._lines.put(line)

    def evaluations(self) -> list[Evaluation]:
        """Those printed since the last call."""
        found: list[Evaluation] = []
        while not self._lines.empty():
            found.append(Evaluation(**json.loads(self._lines.get())))
        return found

    def kill(self, pid: int) -> None:
        """SIGKILL to one of the workers, on purpose."""
        self._killed.add(pid)
        os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """Workers that run."""
        return [worker.pid for _, worker in self._workers if worker.poll() is None]

    def check(self) -> None:
        """Raises DemoFailed for a process that failed and was not killed on purpose."""
        evaluator = [] if self._evaluator is None else [("evaluate", self._evaluator)]
        for name, process in (*self._workers, *evaluator):
            code = process.poll()
            if code and process.pid not in self._killed:
                why = last_line(self._logs / f"{name}.log")
                raise DemoFailed(f"{ended(name, process.pid, code)}{f': {why}' if why else ''}")

    def has_finished(self) -> bool:
        return not self.pids() and self._evaluator is not None and self._evaluator.poll() is not None

    def stop(self) -> None:
        processes = [worker for _, worker in self._workers] + ([self._evaluator] if self._evaluator else [])
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
