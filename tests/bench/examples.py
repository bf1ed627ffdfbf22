"""Runs every example by the command in its docstring, against `sheepfold up`, and kills one of its workers.

    make examples

Two workers each (torchrun starts its own two). A job is paused until both are there, and one of them is
killed by SIGKILL once it has contributed and half of the steps are committed. Where a command names a FOLDER
of images, it holds pictures of Fashion-MNIST. An example has failed unless what is left of it ends with exit
code 0 and the job with all its steps. The last line is JSON: samples that no committed or skipped step covers
(lost), and samples that more than one slot covers (doubled), by the step reports.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

import sheepfold_wire.messages as m
from sheepfold.demo.data import PACKAGED_DIR, read_idx
from sheepfold_wire.control import Control
from sheepfold_wire.job import job_from_json
from sheepfold_wire.schedule import batch_at

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "client" / "examples"
SECONDS_MAX = 120.0
LOOK_SECONDS = 0.02


class Failed(Exception):
    """An example did not do what it is to do; the text says what."""


def until(is_so: Callable[[], bool], what: str, processes: list[subprocess.Popen[str]]) -> None:
    """Wait for a condition; fails at the deadline, or when a process ends with an error before."""
    end = time.monotonic() + SECONDS_MAX
    while not is_so():
        for process in processes:
            if process.poll() not in (None, 0):
                raise Failed(f"exit code {process.returncode} before {what}")
        if time.monotonic() > end:
            raise Failed(f"not within {SECONDS_MAX:.0f} s: {what}")
        time.sleep(LOOK_SECONDS)


def write_pictures(folder: Path, count: int = 320) -> None:
    """The first pictures of Fashion-MNIST, as folder/CLASS/NUMBER.png."""
    pixels, labels = (
        read_idx(PACKAGED_DIR / f"train-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1")
    )
    for number, (picture, label) in enumerate(zip(pixels[:count], labels[:count], strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number}.png")


def documented_commands(path: Path, images: Path) -> list[list[str]]:
    """What the docstring says to type, as often as it takes for two workers."""
    lines = re.findall(rf"(?:python|torchrun) [^\n#]*client/examples/{path.name}[^\n#]*", path.read_text())
    if not lines:
        raise Failed("its docstring names no command")
    torchrun = [line for line in lines if line.startswith("torchrun")]
    program, *arguments = shlex.split((torchrun or lines)[0].replace("FOLDER", str(images)))
    launcher = [sys.executable, "-m", "torch.distributed.run"] if program == "torchrun" else [sys.executable]
    return [[*launcher, *arguments]] * (1 if torchrun else 2)


class Fold:
    """A running `sheepfold up`."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "sheepfold_server", "up", "--shards", "2", "--dir", str(directory)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--dashboard-port", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        facts = directory / "up.json"
        until(facts.exists, "sheepfold up serves", [self.process])
        self.address = str(json.loads(facts.read_text())["coordinator"]["address"])
        self.control = Control(self.address)

    def close(self) -> None:
        self.control.close()
        self.process.terminate()
        self.process.wait(SECONDS_MAX)


def run(fold: Fold, path: Path, images: Path) -> tuple[int, int]:
    """(samples lost, samples doubled) of one example; raises Failed."""
    known = set(fold.control.jobs())
    environment = {**os.environ, "SHEEPFOLD": fold.address, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)
        for command in documented_commands(path, images)
    ]
    readers = [threading.Thread(target=_drain, args=(process,), daemon=True) for process in processes]
    for reader in readers:
        reader.start()
    try:
        until(lambda: len(set(fold.control.jobs()) - known) == 1, "its job exists", processes)
        (job,) = set(fold.control.jobs()) - known
        reports = Reports(fold.control, job)
        killed = kill_one(fold, job, processes)
        for process in processes:
            process.wait(SECONDS_MAX)
        codes = [process.returncode for process in processes if process.pid != killed]
        if any(codes):
            raise Failed(f"exit codes {codes}")
        status = fold.control.status(job)
        if status.version != status.stop_steps:
            raise Failed(f"its job ended at version {status.version} of {status.stop_steps}")
        return reports.lost_and_doubled(status)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _drain(process: subprocess.Popen[str]) -> None:
    """A full pipe would stop the worker."""
    assert process.stdout is not None
    assert process.stderr is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()
    process.stdout.read()


def kill_one(fold: Fold, job: str, processes: list[subprocess.Popen[str]]) -> int:
    """SIGKILL to one of two workers that has contributed, half-way; returns its pid."""

    def steer(action: str) -> None:
        fold.control.control(m.ControlRequest(job, action, "make examples"))

    until(lambda: fold.control.status(job).version >= 0, "version 0 is there", processes)
    steer("pause")
    until(lambda: len(fold.control.status(job).workers) == 2, "two workers are there", processes)
    steer("resume")
    pids: list[int] = []

    def has_victim() -> bool:
        status = fold.control.status(job)
        pids[:] = [worker.pid for worker in status.workers if worker.slots_committed > 0]
        return 2 * status.version >= status.stop_steps and bool(pids)

    until(has_victim, "half of the steps are committed", processes)
    os.kill(pids[-1], signal.SIGKILL)
    return pids[-1]


class Reports:
    """Every step report of a job, read as they come."""

    def __init__(self, control: Control, job: str) -> None:
        self._found: list[m.StepReport] = []
        self._thread = threading.Thread(target=self._read, args=(control, job), daemon=True)
        self._thread.start()

    def _read(self, control: Control, job: str) -> None:
        self._found.extend(control.watch(job, 0, lambda call: None))

    def lost_and_doubled(self, status: m.JobStatus) -> tuple[int, int]:
        self._thread.join(SECONDS_MAX)
        job = job_from_json(status.config_json)
        if [report.version for report in self._found] != list(range(1, status.version + 1)):
            raise Failed(f"{len(self._found)} step reports of {status.version} versions came")
        counted = [report for report in self._found if not report.is_skip]
        due = sum(batch_at(job, step)[0] for step in range(status.version))
        if job.data.mode == "free":
            covered = sum(report.samples for report in counted) + status.samples_skipped
            return max(0, due - covered), max(0, covered - due)
        places: Counter[int] = Counter()
        for report in counted:
            for slot in report.slots:
                places.update(range(slot.sample_start, slot.sample_start + slot.samples))
        for skipped in status.skipped_samples:
            places.update(range(skipped.start, skipped.start + skipped.count))
        lost = sum(place not in places for place in range(due))
        return lost, sum(count - 1 for count in places.values())


def main() -> int:
    result: dict[str, Any] = {
        "bench": "examples",
        "ran": 0,
        "failed": [],
        "samples_lost": 0,
        "samples_doubled": 0,
    }
    with tempfile.TemporaryDirectory() as directory:
        images = Path(directory) / "images"
        write_pictures(images)
        fold = Fold(Path(directory) / "state")
        try:
            for path in sorted(EXAMPLES.glob("*.py")):
                began = time.monotonic()
                try:
                    lost, doubled = run(fold, path, images)
                except (Failed, subprocess.TimeoutExpired) as failure:
                    result["failed"].append(path.name)
                    outcome = f"FAILED: {failure}"
                else:
                    result["samples_lost"] += lost
                    result["samples_doubled"] += doubled
                    outcome = f"one worker killed; {lost} samples lost, {doubled} doubled"
                result["ran"] += 1
                print(f"{path.name:24} {time.monotonic() - began:5.1f} s  {outcome}", flush=True)
        finally:
            fold.close()
    print(json.dumps(result))
    return 1 if result["failed"] or result["samples_lost"] or result["samples_doubled"] else 0


if __name__ == "__main__":
    sys.exit(main())
