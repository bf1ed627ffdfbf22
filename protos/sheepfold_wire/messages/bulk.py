"""What stands in shard.proto of the calls of workers: push and pull, and memory shared for both."""

from __future__ import annotations

from dataclasses import dataclass

from sheepfold_wire.ids import AttemptId

WEIGHT_MIN = 1e-30
"""Smallest weight a contribution may state; of a slot without a token, so that its zeros count as nothing."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that a user's script wants to see beside the loss."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What a worker says of one contribution; equal on all shards, or the attempt is refused."""

    samples: int
    weight: float
    base_version: int
    present: bytes  # one bit per tensor of the manifest, lowest bit of the first byte first
    loss: float | None = None
    metrics: tuple[Metric, ...] = ()


@dataclass(frozen=True, slots=True)
class PushHeader:
    """First frame of a push. Everything that can be refused is refused on this alone."""

    job: str
    attempt: AttemptId
    shard: int
    incarnation: int
    term: int
    manifest_digest: str
    plan_digest: str
    codec: str
    payload_bytes: int
    payload_digest: bytes
    facts: Facts
    is_ahead: bool = False
    """Whether some of the payload follows, before digest and facts are known; they are empty then."""
    ahead_bytes: int = 0
    """Of the payload, brought by pushes ahead of this one: only the others follow."""


@dataclass(frozen=True, slots=True)
class PushReply:
    """The part is staged. `duplicate` is set if it had been staged already."""

    duplicate: bool


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Ask for one version; `version` None means the newest committed one."""

    job: str
    shard: int
    incarnation: int
    manifest_digest: str
    plan_digest: str
    codec: str
    version: int | None = None
    wait_seconds: float = 0.0
    lineage: str = ""
    region: int = 0


@dataclass(frozen=True, slots=True)
class PullHeader:
    """First frame of a pull; the same version is repeated in the last frame."""

    version: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class ShareRequest:
    """Ask where to hand over memory."""


@dataclass(frozen=True, slots=True)
class ShareReply:
    """Where a worker of the same host hands over a region, and what it says there."""

    boot_id: str
    socket: str
    key: bytes


@dataclass(frozen=True, slots=True)
class DigestRequest:
    """Digests of a shard's state at its current version, block by block."""

    job: str


@dataclass(frozen=True, slots=True)
class DigestEntry:
    index: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class DigestReply:
    version: int
    entries: tuple[DigestEntry, ...]
