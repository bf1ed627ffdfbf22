"""Follows a job and writes the versions that are due."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sheepfold.errors import Refused
from sheepfold.export.average import Average
from sheepfold.export.files import AVERAGE, MODEL, TORCH, Exports, Write, safetensors_file, torch_file
from sheepfold.numpy_client import Array
from sheepfold.reader import Reader

LOOK_SECONDS = 1.0
LOOK_SECONDS_AVERAGE = 0.05
"""Versions are served for a step or two: an average that misses none looks often."""
PIN_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """What is written, and how much of it is kept."""

    directory: Path
    every: int = 0
    """Versions from one export to the next; 0: only the last one."""
    keep: int = 3
    with_best: bool = False
    with_torch: bool = False
    ema: float | None = None


def is_due(written: int, version: int, every: int, is_over: bool) -> bool:
    """Whether to write `version` now: a multiple of `every` was passed since the last, or the job is over."""
    if version < 0 or version <= written:
        return False
    return is_over or (every > 0 and version // every > max(written, 0) // every)


class Exporter:
    """Call `look` until it returns False, or `run`."""

    def __init__(self, reader: Reader, config: ExportConfig, say: Callable[[str], None]) -> None:
        self._reader, self._config, self._say = reader, config, say
        self.exports = Exports(config.directory, reader.job)
        self._average = self._resumed_average()
        self._best_seen = self.exports.pointed("best")

    def _resumed_average(self) -> Average | None:
        """Goes on from the newest export that has one."""
        if self._config.ema is None:
            return None
        from safetensors.numpy import load_file

        for version in reversed(self.exports.versions()):
            file = self.exports.path(version) / AVERAGE
            if file.exists():
                return Average(self._config.ema, load_file(file), version)
        return Average(self._config.ema)

    def run(self, stopped: threading.Event) -> None:
        """Until the job has ended and its last version is written, or it is told to stop."""
        seconds = LOOK_SECONDS if self._average is None else LOOK_SECONDS_AVERAGE
        while self.look() and not stopped.wait(seconds):
            pass

    def look(self) -> bool:
        """Write what is due now; False once there is nothing more to come."""
        status = self._reader.status()
        is_over = status.state == "ended"
        written = max(self.exports.versions(), default=-1)
        if self._average is not None:
            self._average_in(self._average, status.version)
        if is_due(written, status.version, self._config.every, is_over):
            self._write(self._reader.pull(pin=PIN_SECONDS))
            self._reader.unpin()
        if self._config.with_best and status.best_version not in (-1, self._best_seen):
            self._write_best(status.best_version)
        return not is_over

    def _average_in(self, average: Average, newest: int) -> None:
        """Every version up to the newest that is still served, one by one."""
        while average.version < newest:
            try:
                weights = self._reader.pull(average.version + 1)
            except Refused:  # it is gone: the newest stands for it
                weights = self._reader.pull()
            average.add(self._reader.version, weights)

    def _write(self, weights: dict[str, Array]) -> None:
        version = self._reader.version
        path = self.exports.write(version, self._facts(), self._files(version, weights))
        newest = self.exports.pointed("latest")
        if newest is None or version > newest:
            self.exports.point("latest", version)
        self.exports.prune(self._config.keep)
        self._say(f"version {version} of job {self._reader.job}: {path}")

    def _write_best(self, version: int) -> None:
        """The best version is old when it is found: it is there only if its evaluator has pinned it."""
        self._best_seen = version
        if version not in self.exports.versions():
            try:
                weights = self._reader.pull(version)
            except Refused as error:
                self._say(
                    f"version {version} is the best, but is not exported: {error}. Evaluate pinned versions"
                )
                return
            self.exports.write(version, self._facts(), self._files(version, weights, with_average=False))
        self.exports.point("best", version)
        self._say(f"version {version} is the best: {self.exports.path(version)}")

    def _facts(self) -> dict[str, str]:
        return {"job": self._reader.job, "manifest": self._reader.manifest.digest}

    def _files(self, version: int, weights: dict[str, Array], with_average: bool = True) -> dict[str, Write]:
        about = {**self._facts(), "version": str(version)}
        files = {MODEL: safetensors_file(weights, about)}
        if self._config.with_torch:
            files[TORCH] = torch_file(weights)
        if self._average is not None and with_average:
            self._average.add(version, weights)
            decay = {"ema_decay": str(self._average.decay)}
            files[AVERAGE] = safetensors_file(self._average.weights, {**about, **decay})
        return files
