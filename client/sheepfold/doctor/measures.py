"""What this machine and this process have."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sheepfold.doctor import machine
from sheepfold.doctor.results import CheckResult

PACKAGES = ("sheepfold", "grpcio", "protobuf", "numpy", "torch")
SHARED_MEMORY = Path("/dev/shm")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def machine_checks(environ: Mapping[str, str]) -> list[CheckResult]:
    return [
        machine.check_proxies(environ),
        machine.check_fork_support(environ),
        machine.check_shared_memory(free_bytes(SHARED_MEMORY)),
        machine.check_threads(usable_cpus(), cpu_quota(CPU_QUOTA), environ),
        machine.check_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        machine.check_versions(platform.python_version(), {name: installed(name) for name in PACKAGES}),
    ]


def free_bytes(folder: Path) -> int | None:
    """Bytes that a user may still write there; None if it is not there."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(file: Path) -> float | None:
    """CPUs that the container may use, from cgroup v2's cpu.max; None: no limit that is known."""
    try:
        quota, period = file.read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
