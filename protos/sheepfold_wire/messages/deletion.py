"""What is said when a job is deleted: by an administrator, and between coordinator and shards."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeleteJobRequest:
    """Forget a job that has ended. Its checkpoints stay as they are."""

    request_id: str
    job: str
    author: str = ""
    without_checkpoint: bool = False
    """Whether the newest version may be lost."""


@dataclass(frozen=True, slots=True)
class DeleteJobReply:
    """The newest version of the job, and the newest that a checkpoint holds; -1: none."""

    version: int
    kept_version: int
    checkpoint_url: str = ""
    shards_away: tuple[int, ...] = ()
    """They remove what they hold when they link again."""


@dataclass(frozen=True, slots=True)
class RemoveJob:
    """A job was deleted, and that is durable: close it, and remove the logs of these lineages."""

    job: str
    term: int
    lineages: tuple[str, ...]
    """The newest first."""


@dataclass(frozen=True, slots=True)
class JobRemoved:
    """The shard holds nothing (any more) of a job that was deleted; `lineage`: the first of the command."""

    job: str
    lineage: str
