"""The entries of a bundle: versions, environment, jobs with their newest steps, logs."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path
from typing import Any

import grpc

from sheepfold_server.cli.support.masks import masked_environment, masked_text
from sheepfold_wire.control import Control, NoAnswer
from sheepfold_wire.errors import SheepfoldError

STEPS_MAX = 256
LOG_BYTES_MAX = 1 << 20
PREFIXES = ("SHEEPFOLD", "OMP_", "MKL_", "TORCH", "CUDA_", "NCCL_", "GRPC_", "RANK", "WORLD_SIZE", "LOCAL_")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the bundle."""

    name: str
    text: str

    @property
    def size_bytes(self) -> int:
        return len(self.text.encode())


def machine() -> Entry:
    """Versions, and the variables that change what they do."""
    packages = {each.metadata["Name"]: each.version for each in distributions() if each.metadata["Name"]}
    return _as_json(
        "machine.json",
        {
            "python": sys.version,
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "environment": masked_environment(os.environ, PREFIXES),
            "packages": dict(sorted(packages.items())),
        },
    )


def jobs(control: Control) -> Iterator[Entry]:
    """Status with events and configuration, and the newest step reports; why, where they cannot be had."""
    try:
        names = control.jobs()
    except (NoAnswer, SheepfoldError) as error:
        yield Entry("coordinator.txt", f"{error}\n")
        return
    for name in names:
        try:
            status = control.status(name)
            yield _as_json(f"jobs/{name}/status.json", asdict(status))
            yield _as_json(f"jobs/{name}/config.json", json.loads(status.config_json))
            yield _reports(control, name, status.version)
        except (NoAnswer, SheepfoldError) as error:
            yield Entry(f"jobs/{name}/trouble.txt", f"{error}\n")


def _reports(control: Control, job: str, version: int) -> Entry:
    """One line of JSON per step, the newest last. Those that are made meanwhile are not waited for."""
    calls: list[grpc.Call] = []
    first, lines = max(1, version - STEPS_MAX + 1), []
    if version >= 1:
        for report in islice(control.watch(job, first, calls.append), STEPS_MAX):
            lines.append(json.dumps(asdict(report)))
            if report.version >= version:
                break
    for call in calls:
        call.cancel()
    return Entry(f"jobs/{job}/steps.jsonl", "".join(f"{line}\n" for line in lines))


def state_directory(directory: Path, secrets: tuple[str, ...]) -> Iterator[Entry]:
    """What runs, and the end of each log."""
    if not directory.is_dir():
        yield Entry("state/trouble.txt", f"{directory.name}: no such directory; name it with --dir\n")
        return
    for path in (directory / "up.json", *sorted((directory / "logs").glob("*.log*"))):
        if path.is_file():
            name = f"state/{path.relative_to(directory)}"
            yield Entry(name, masked_text(_tail(path), secrets))


def secrets_of(directory: Path) -> tuple[str, ...]:
    """Tokens that must not appear in anything that leaves the machine."""
    found = []
    for file in sorted((directory / "tls").glob("*.token")):
        try:
            found.append(file.read_text("ascii").strip())
        except (OSError, UnicodeDecodeError):
            continue
    return tuple(token for token in found if token)


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_BYTES_MAX))
        text = file.read().decode("utf-8", "replace")
    if size <= LOG_BYTES_MAX:
        return text
    return f"(the first {size - LOG_BYTES_MAX:,} bytes are left out)\n" + text.partition("\n")[2]


def _as_json(name: str, value: Any) -> Entry:
    return Entry(name, masked_text(json.dumps(value, indent=2, default=str)) + "\n")
