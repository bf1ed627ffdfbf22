"""What a process tells of itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Of the distribution; empty in a source tree that was never installed."""
    try:
        return version("sheepfold")
    except PackageNotFoundError:
        return ""
