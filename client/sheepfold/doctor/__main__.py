"""`python -m sheepfold.doctor [--address ADDRESS] [--job NAME]`: needs the client alone."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from sheepfold.doctor.examine import examine
from sheepfold.doctor.results import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints each result as it comes; 1 if a check failed."""
    parser = argparse.ArgumentParser(
        prog="sheepfold doctor",
        description="Check the way from this machine to coordinator and shards, and what workers need here. "
        "Exit code 1 if a check FAILED.",
    )
    parser.add_argument("--address", "-a", metavar="ADDRESS", help="default: $SHEEPFOLD, 127.0.0.1:7070")
    parser.add_argument("--job", metavar="NAME", help="default: the job with the most weights")
    options = parser.parse_args(arguments)
    results = []
    try:
        for result in examine(options.address, options.job, os.environ):
            print(result.line, flush=True)
            results.append(result)
    except KeyboardInterrupt:
        return 130
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
