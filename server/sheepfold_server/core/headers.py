"""What a push must say to be received: checked on its header alone, before a byte of the body is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.parts import Part, PartState
from sheepfold_wire.codecs import DOWN
from sheepfold_wire.errors import (
    ContributionConflict,
    InvalidError,
    JobUnknown,
    ManifestMismatch,
    PlanMismatch,
    PushInProgress,
    ShapeMismatch,
    StaleIncarnation,
    StaleTerm,
)


@dataclass(frozen=True, slots=True)
class ShardJob:
    """What is fixed about a job on this shard."""

    job: str
    shard: int
    incarnation: int
    term: int
    lineage: str
    manifest_digest: str
    plan_digest: str
    codec: str
    part_bytes: int
    """Payload bytes of a contribution's part in `codec`."""
    init_bytes: int
    """Payload bytes of the init part, fp32."""
    presence_bytes: int
    part_slots: int
    open_steps: int
    delay: int
    """Versions back from the newest that gradients are computed at."""
    holds_split: bool
    """Whether blocks of a split slice live here."""
    counts_skips: bool = False
    """Whether a skipped step advances the bias counters."""
    cosines_every: int = 0
    """Steps of which one compares its slots with their mean; 0: none does."""

    def compares(self, step: int) -> bool:
        return self.cosines_every > 0 and step % self.cosines_every == 0


def check_pull(job: ShardJob, asked: m.PullRequest) -> None:
    """Refuse a pull that means another process, model, cut or lineage: equal versions of two may differ.

    And one in a codec that is not known here, or is for gradients only.
    """
    if asked.codec not in (known := [codec.value for codec in DOWN]):
        raise InvalidError(
            f"codec = {asked.codec!r}: weights come down as {', '.join(known)}; pull in one of them"
        )
    check_target(job, asked.incarnation, asked.manifest_digest, asked.plan_digest)
    if asked.lineage not in ("", job.lineage):
        raise StaleTerm(
            f"the pull means lineage {asked.lineage}, job {job.job} went back to a checkpoint and is lineage "
            f"{job.lineage} now; attach again"
        )


def check_target(job: ShardJob, incarnation: int, manifest_digest: str, plan_digest: str) -> None:
    """Refuse a request that means another process, model or cut than this shard's; pushes and pulls alike."""
    if incarnation != job.incarnation:
        raise StaleIncarnation(
            f"the request means incarnation {incarnation} of shard {job.shard}, this is {job.incarnation}; "
            "attach again"
        )
    if manifest_digest != job.manifest_digest:
        raise ManifestMismatch(
            f"the request's manifest is {manifest_digest[:12]}, job {job.job} has "
            f"{job.manifest_digest[:12]}; attach with the job's model"
        )
    if plan_digest != job.plan_digest:
        raise PlanMismatch(
            f"the request's plan is {plan_digest[:12]}, job {job.job} has {job.plan_digest[:12]}; "
            "attach again"
        )


def check_header(job: ShardJob, header: m.PushHeader) -> None:
    """Refuse a part that is for another job, shard, process, model, cut or term."""
    if header.job != job.job or header.shard != job.shard:
        raise JobUnknown(
            f"this is shard {job.shard} of job {job.job}, the part is for shard {header.shard} of job "
            f"{header.job}"
        )
    check_target(job, header.incarnation, header.manifest_digest, header.plan_digest)
    if header.term != job.term:
        raise StaleTerm(
            f"the part was leased in term {header.term}, the coordinator is in term {job.term}; attach again"
        )


def check_part(job: ShardJob, part: Part, header: m.PushHeader) -> None:
    """Refuse a part of another form, or one that contradicts what was sent under the same attempt."""
    codec, due = ("fp32", job.init_bytes) if part.is_init else (job.codec, job.part_bytes)
    if header.codec != codec:
        raise ShapeMismatch(
            f"the part is encoded as {header.codec!r}, job {job.job} takes {codec!r} (wire.up)"
        )
    if header.payload_bytes != due:
        raise ShapeMismatch(f"the part has {header.payload_bytes} bytes, shard {job.shard} expects {due}")
    if header.is_ahead:
        if part.is_init:
            raise ShapeMismatch("initial weights are not pushed ahead; send the part whole")
        return
    if not (math.isfinite(header.facts.weight) and math.isfinite(header.facts.loss or 0.0)):
        raise InvalidError(
            f"weight = {header.facts.weight}, loss = {header.facts.loss}: both must be finite; "
            "a loss may be left out"
        )
    if len(header.facts.present) != job.presence_bytes:
        raise ShapeMismatch(
            f"the presence bitmap has {len(header.facts.present)} bytes, {job.presence_bytes} are expected "
            "for the manifest"
        )
    if part.header is None:
        return
    if part.header.payload_digest != header.payload_digest or part.header.facts != header.facts:
        raise ContributionConflict(
            f"attempt {part.attempt} was pushed with digest {part.header.payload_digest.hex()}, now with "
            f"{header.payload_digest.hex()}; one attempt is one contribution"
        )
    if part.state is PartState.RECEIVING:
        raise PushInProgress(
            f"attempt {part.attempt} is being received on another stream; wait, then send it again"
        )
