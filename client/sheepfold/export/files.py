"""One export on disk: written aside, made durable, then renamed into place; its index is its last file.

DIR/JOB/version-00000120/model.safetensors   names as in the model: Hugging Face's for its models
                         model.pt            a torch state_dict of tensors, if asked for
                         ema.safetensors     the moving average, if asked for
                         export.json         job, version, SHA-256 of each file
        latest, best                         names of the directories
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sheepfold.numpy_client import Array

INDEX = "export.json"
MODEL, AVERAGE, TORCH = "model.safetensors", "ema.safetensors", "model.pt"

Write = Callable[[Path], None]
"""Writes one file of an export."""


class Exports:
    """The exports of one job under one directory."""

    def __init__(
        self, directory: Path, job: str, rename: Callable[[Path, Path], object] = os.replace
    ) -> None:
        self.root = directory / job
        self._rename = rename
        self.root.mkdir(parents=True, exist_ok=True)
        for left in self.root.glob(".writing-*"):  # of a process that was killed
            shutil.rmtree(left)

    def path(self, version: int) -> Path:
        return self.root / f"version-{version:08d}"

    def versions(self) -> list[int]:
        """Whole exports, oldest first."""
        found = (path.parent.name for path in self.root.glob(f"version-*/{INDEX}"))
        return sorted(int(name.removeprefix("version-")) for name in found)

    def write(self, version: int, facts: Mapping[str, Any], files: Mapping[str, Write]) -> Path:
        """All files of a version, or nothing; one that is there already is left as it is."""
        if version in self.versions():
            return self.path(version)
        aside = self.root / f".writing-{version}"
        aside.mkdir()
        digests: dict[str, str] = {}
        for name, write in files.items():
            write(aside / name)
            digests[name] = _durable(aside / name)
        index = {**facts, "version": version, "files": digests}
        (aside / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        _durable(aside / INDEX)
        self._rename(aside, self.path(version))
        _sync_directory(self.root)
        return self.path(version)

    def point(self, name: str, version: int) -> None:
        """`latest` or `best` names this version from now on."""
        aside = self.root / f".{name}"
        aside.write_text(self.path(version).name + "\n")
        _durable(aside)
        self._rename(aside, self.root / name)

    def pointed(self, name: str) -> int | None:
        try:
            return int((self.root / name).read_text().strip().removeprefix("version-"))
        except (OSError, ValueError):
            return None

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep`, and the best."""
        best = self.pointed("best")
        for version in self.versions()[:-keep]:
            if version != best:
                shutil.rmtree(self.path(version))


def safetensors_file(weights: Mapping[str, Array], metadata: Mapping[str, str]) -> Write:
    from safetensors.numpy import save_file

    def write(path: Path) -> None:
        save_file(dict(weights), path, {"format": "pt", **metadata})

    return write


def torch_file(weights: Mapping[str, Array]) -> Write:
    import torch

    def write(path: Path) -> None:
        torch.save({name: torch.from_numpy(value.copy()) for name, value in weights.items()}, path)

    return write


def _durable(path: Path) -> str:
    """SHA-256 of a file that is on the disk when this returns."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
