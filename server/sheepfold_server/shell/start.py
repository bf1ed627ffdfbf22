"""What goes wrong before a process runs."""

from __future__ import annotations


class StartError(Exception):
    """The process cannot start; the text is one sentence with the remedy. Exit code 2, no traceback."""
