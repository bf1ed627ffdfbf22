"""Options of the demo's programs, and how they refuse."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

EXIT_REFUSED = 2


def parser(description: str) -> argparse.ArgumentParser:
    """With --data-dir, which all of them have."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--data-dir", type=Path, help="folder with Fashion-MNIST's four .gz files")
    return found


def add_job_options(found: argparse.ArgumentParser) -> None:
    """--address and --job, of those that talk to a server."""
    found.add_argument(
        "--address", help="the coordinator's host:port; left out: $SHEEPFOLD, else this machine"
    )
    found.add_argument("--job", default="demo", help="name of the job")


def run(work: Callable[[], None], expected: tuple[type[Exception], ...]) -> int:
    """Exit code of `work`: an expected error is one line on stderr and 2."""
    try:
        work()
    except expected as error:
        print(f"sheepfold: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return 0
