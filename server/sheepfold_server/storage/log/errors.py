"""What can be wrong with a log: each says where, what was expected and found, and what helps."""

from __future__ import annotations


class LogError(Exception):
    """The log cannot be used as it is. Nothing of it has been changed."""


class LogCorrupt(LogError):
    """A record in the middle of the log is not as it was written: what follows it cannot be trusted."""


class LogMismatch(LogError):
    """The log is of another job, shard, model, version of the format or numeric fingerprint."""
