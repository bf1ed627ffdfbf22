"""`python -m sheepfold.export --job NAME --into DIR`: needs the client alone."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from sheepfold.errors import JobEnded, Refused, ServerUnavailable
from sheepfold.exits import exit_code
from sheepfold.export.exporter import ExportConfig, Exporter
from sheepfold.reader import Reader


def main(arguments: Sequence[str] | None = None) -> int:
    """Follows the job until it has ended; exit codes as of a training script."""
    options = parsed(arguments)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    config = ExportConfig(
        options.into,
        options.every,
        options.keep,
        options.best,
        options.torch,
        options.ema,
    )
    try:
        with Reader(options.job, address=options.address) as reader:
            Exporter(reader, config, lambda text: print(text, flush=True)).run(stopped)
    except (Refused, ServerUnavailable, JobEnded) as error:
        print(f"sheepfold: {error}", file=sys.stderr)
        return exit_code(error) or 0
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sheepfold export", description=__doc__)
    parser.add_argument("--job", metavar="NAME", help="default: the only job of the server")
    parser.add_argument(
        "--into", metavar="DIR", type=Path, required=True, help="exports go to DIR/NAME/version-N"
    )
    parser.add_argument("--address", "-a", metavar="HOST:PORT", help="default: $SHEEPFOLD, 127.0.0.1:7070")
    parser.add_argument(
        "--every",
        metavar="N",
        type=_count,
        default=0,
        help="versions between two exports; default: the last only",
    )
    parser.add_argument(
        "--keep", metavar="N", type=_count, default=3, help="newest exports to keep, beside the best (3)"
    )
    parser.add_argument("--best", action="store_true", help="also the best version by the job's stop.metric")
    parser.add_argument("--torch", action="store_true", help="also model.pt, a torch state_dict")
    parser.add_argument(
        "--ema",
        metavar="DECAY",
        type=_decay,
        help="also a moving average of the weights, e.g. 0.999; the next version stands for one that is gone",
    )
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 on")
    return int(text)


def _decay(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number between 0 and 1, e.g. 0.999")
    return value


if __name__ == "__main__":
    sys.exit(main())
