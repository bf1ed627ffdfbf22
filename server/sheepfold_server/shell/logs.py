"""Logging of every role: to stderr, one line per record, with UTC time, level and role."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime


class OneLine(logging.Formatter):
    """`2026-01-31T08:00:00.123Z INFO shard-0 text`; the lines of a traceback are joined by ` | `."""

    def __init__(self, role: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {role} %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"

    def format(self, record: logging.LogRecord) -> str:
        return " | ".join(line for line in super().format(record).splitlines() if line.strip())


def log_to_stderr(role: str, level: int = logging.INFO) -> None:
    """Set up logging for this process; called once, by its entry point."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(role))
    logging.basicConfig(level=level, handlers=[handler], force=True)
