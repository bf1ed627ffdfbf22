"""Storage that keeps nothing: durability level `none`."""

from __future__ import annotations


class NullStorage:
    """Performs Append and Persist by doing nothing; a record is as durable as this level demands at once."""

    level = "none"
    survives = "the loss of any worker"
    loses = "the loss of a shard or of the coordinator ends the job"

    def append(self, record: object) -> None:
        """Of a shard: the prepare record of a step."""

    def persist(self, record: object) -> None:
        """Of the coordinator: jobs, decisions, changes of configuration."""
