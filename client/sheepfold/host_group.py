"""Ranks of one host as one worker: torch.distributed adds up what they compute before it leaves the host.

Rank 0 leases. Each rank computes its share of a slot, and pushes and pulls its own shards (every n-th of n
ranks), so that a host sends one gradient, however many accelerators it has. All ranks make the same calls in
the same order, as with any process group; one that fails ends them all.
"""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, reduce
from operator import or_
from typing import Any

import numpy as np
import torch.distributed as dist

import sheepfold_wire.messages as m
from sheepfold.address import find_address
from sheepfold.calls import Contribution
from sheepfold.collectives import Ranks
from sheepfold.errors import GroupBroken, JobEnded, Refused
from sheepfold.events import Ended, Goal, Ready
from sheepfold.exits import EXIT_TRY_AGAIN
from sheepfold.joining import Joining
from sheepfold.packing import Packer
from sheepfold.rounds import Share
from sheepfold.transport import Brought
from sheepfold.worker import Worker, join_as
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.convert import from_proto, to_proto
from sheepfold_wire.job import Job
from sheepfold_wire.samples import rank_seed
from sheepfold_wire.v1 import coordinator_pb2, shard_pb2


def join_group(joining: Joining, group: dist.ProcessGroup) -> GroupWorker:
    """As `join`, by all ranks of a group together: rank 0 is the worker, the others are its hands.

    Raises Refused, on all ranks, for models that differ and slots that cannot be divided.
    """
    ranks = Ranks(group)
    joining = replace(joining, share=ranks.share)
    worker: GroupWorker | None = None
    try:
        if ranks.leads:
            _refuse_own_server(joining, ranks)
            worker = join_as(joining, GroupWorker)
    except Exception as error:
        ranks.first({"failed": f"{error}"})
        raise
    said = None if worker is None else {"job": worker.job.name, "version": worker.version_at_attach}
    news = ranks.first(said)
    if "failed" in news:
        raise Refused(f"rank 0 did not join: {news['failed']}")
    try:
        if worker is None:
            hand = replace(joining, job=news["job"], config=None, manifest=None)
            worker = join_as(hand, GroupWorker)
        worker.ranks, worker.version_at_attach = ranks, news["version"]
        why = "" if joining.manifest is None else _misfit(worker, joining.manifest.digest)
    except Exception as error:
        ranks.told(f"rank {ranks.share.rank} did not join: {error}")
        raise
    if whys := [each for each in ranks.told(why) if each]:
        worker.close()
        raise Refused(whys[0])
    return worker


def _refuse_own_server(joining: Joining, ranks: Ranks) -> None:
    given = joining.address
    if ranks.share.count > 1 and (given is None or isinstance(given, str)):
        address = find_address(given)
        if address.connection is None:
            raise Refused(
                f"{address} is a server inside this process, which other ranks cannot reach",
                remedy="start one with `sheepfold up`, and give its address",
            )


def _misfit(worker: GroupWorker, digest: str) -> str:
    """Why this rank cannot take part; empty if it can."""
    rank, count = worker.ranks.share.rank, worker.ranks.share.count
    if digest != worker.manifest.digest:
        return f"rank {rank} has another model than the job: give all ranks of a process group the same one"
    batch = worker.job.batch
    for size in (batch.slot_samples, *(stage.slot_samples or 0 for stage in batch.stage)):
        if size % count:
            return (
                f"slots of {size} samples cannot be divided among {count} ranks: make batch.slot_samples a "
                f"multiple of {count}, or the process group smaller"
            )
    return ""


class GroupWorker(Worker):
    """One rank's side of a worker of several."""

    ranks: Ranks
    _lease: m.Lease | None = None
    """The whole slot's."""
    _own: tuple[Buffer, ...] = ()
    """Parts that this rank has pulled."""
    _is_pulled = False
    """Whether all ranks have, at one version."""

    @property
    def up(self) -> Codec:
        """Ranks add up in fp32; their sum is encoded."""
        return Codec.FP32

    @property
    def own_job(self) -> Job:
        count, batch = self.ranks.share.count, self.job.batch
        stages = tuple(
            stage.model_copy(update={"slot_samples": stage.slot_samples and stage.slot_samples // count})
            for stage in batch.stage
        )
        share = {"slot_samples": batch.slot_samples // count, "stage": stages}
        return self.job.model_copy(update={"batch": batch.model_copy(update=share)})

    @property
    def leads(self) -> bool:
        return self.ranks.leads

    @cached_property
    def _packer(self) -> Packer:
        """Of sums."""
        return Packer(self.manifest, self.plan)

    # --- leases and weights ---------------------------------------------------------------------------

    def next_lease(self) -> m.Lease:
        """This rank's share of the next lease; one of version 0 is rank 0's alone. Raises GroupBroken too."""
        while True:
            news = None
            if self.leads:
                lease: m.Lease = self._led(lambda: super(GroupWorker, self).next_lease())
                if lease.is_init:
                    return lease
                news = {"lease": lease_text(lease), **self._pulled_news()}
            news = self._heard(news)
            failures = self._follow(news["version"]) if news["pulled"] else []
            if not failures:
                self._lease = lease_from(news["lease"])
                self._driver.slot_clock.begin()
                return share_of(self._lease, self.ranks.share)
            self.release(failures[0])

    def pull(self, version: int | None = None, limit_seconds: float | None = None) -> int:
        news = None
        if self.leads:
            self._led(lambda: super(GroupWorker, self).pull(version, limit_seconds))
            news = self._pulled_news()
        news = self._heard(news)
        if failures := self._follow(news["version"]):
            raise GroupBroken(failures[0])
        return int(news["version"])

    def _led(self, call: Any) -> Any:
        """Rank 0's own call; that it fails is told to those who wait for its news."""
        try:
            return call()
        except BaseException as error:
            match error:
                case JobEnded():
                    news: dict[str, Any] = {"ended": error.why}
                case SystemExit():
                    news = {"left": True}
                case _:
                    news = {"failed": f"{type(error).__name__}: {error}"}
            with suppress(GroupBroken):  # they may have gone as well
                self.ranks.first(news)
            raise

    def _pulled_news(self) -> dict[str, Any]:
        taken = super().take_weights()
        self._own = taken or ()
        return {"version": self.version, "pulled": taken is not None}

    def _heard(self, news: dict[str, Any] | None) -> dict[str, Any]:
        """Rank 0's news."""
        heard: dict[str, Any] = self.ranks.first(news)
        if "ended" in heard:
            raise JobEnded(heard["ended"])
        if "left" in heard:
            sys.exit(EXIT_TRY_AGAIN)
        if "failed" in heard:
            raise GroupBroken(f"rank 0 failed: {heard['failed']}")
        return heard

    def _follow(self, version: int) -> list[str]:
        """The others pull their shards at rank 0's version; which of them could not, and why."""
        why = ""
        if not self.leads:
            try:
                super().pull(version)
            except Exception as error:
                why = f"rank {self.ranks.share.rank}: {error}"
            self._own = super().take_weights() or ()
        self._is_pulled = True
        return [each for each in self.ranks.told(why) if each]

    def take_weights(self) -> tuple[Buffer, ...] | None:
        """All shards' parts, each from the rank that pulled it."""
        if not self._is_pulled:
            return None
        own, self._own, self._is_pulled = iter(self._own), (), False
        share, parts = self.ranks.share, list[Buffer]()
        for shard in range(self.plan.shard_count):
            is_own = share.owner(shard) == share.rank
            part = bytearray(next(own) if is_own else self.plan.part_bytes(shard, self.down))
            self.ranks.spread(part, share.owner(shard))
            parts.append(part)
        return tuple(parts)

    def room(self, shard: int, size: int) -> memoryview | None:
        """None: what is pushed is the ranks' sum, not this part."""
        return None

    def push(self, parts: tuple[Buffer, ...], facts: m.Facts, brought: Brought = ()) -> Ready | Ended:
        """The weighted mean of all ranks' contributions, each shard's part by its own rank.

        `parts` are fp32 and overwritten. Nothing is ever brought ahead: no rank has the mean before.
        """
        assert not brought
        assert self._lease is not None
        whole = combined([facts_from(text) for text in self.ranks.told(facts_text(facts))])
        share, codec = self.ranks.share, Codec(self.job.wire.up)
        factor = float(np.float32(facts.weight / whole.weight))
        for shard, part in enumerate(parts):
            floats, integers = self._packer.sums(shard, part)
            self.ranks.add_up(floats.mul_(factor), integers, share.owner(shard))
        encoded: list[Buffer] = [b""] * len(parts)
        for shard in share.of(len(parts)):
            encoded[shard] = self._packer.recoded(shard, parts[shard], codec, self._lease.seed)
        return self._pushed(Contribution(tuple(encoded), codec, whole))

    def _pushed(self, contribution: Contribution) -> Ready:
        lease, self._lease = self._lease, None
        assert lease is not None
        why, failed = "", None
        try:
            answer = self._driver.push(contribution, None if self.leads else lease)
            if not (isinstance(answer, Ready) and answer.is_counted):
                why = answer.why or "its push does not count"
        except Exception as error:
            why, failed = f"{error}", error
        told = self.ranks.told({"why": why, "failed": failed is not None})
        if failed is not None:
            raise failed
        lost = [f"rank {rank}: {each['why']}" for rank, each in enumerate(told) if each["why"]]
        if lost and self.leads:
            self._driver.release(lost[0], (lease.attempt,))
        if any(each["failed"] for each in told):
            raise GroupBroken(lost[0])
        return Ready(Goal.PUSH, lease, is_counted=not lost, why="".join(lost[:1]))

    def chore(self, name: str, every: int) -> m.ChoreReply:
        """Rank 0's; the others are told that it is not theirs."""
        news = None
        if self.leads:
            reply: m.ChoreReply = self._led(lambda: super(GroupWorker, self).chore(name, every))
            news = {"yours": reply.is_yours, "over": reply.is_over, "at": [reply.next_version, reply.version]}
        heard = self._heard(news)
        return m.ChoreReply(self.leads and heard["yours"], heard["over"], *heard["at"])

    @property
    def pushes_beside(self) -> bool:
        """All ranks take part in a push, in turn with all else that they do together."""
        return False

    @property
    def against_overlap(self) -> str:
        return "the ranks of a process group add their gradients up first"

    def release(self, reason: str, attempts: tuple[m.AttemptId, ...] = ()) -> None:
        if self.leads:
            super().release(reason, attempts)


def share_of(lease: m.Lease, share: Share) -> m.Lease:
    """What one rank computes of a slot: consecutive samples, with a seed of its own."""
    count = lease.sample_count // share.count
    return replace(
        lease,
        sample_start=lease.sample_start + share.rank * count,
        sample_count=count,
        seed=rank_seed(lease.seed, share.rank),
        stride=lease.stride or lease.sample_count,
        files=_cut(lease.files, share.rank * count, count),
    )


def _cut(files: tuple[m.FileRange, ...], skipped: int, count: int) -> tuple[m.FileRange, ...]:
    """`count` samples of these ranges, after the first `skipped`."""
    found: list[m.FileRange] = []
    for file in files:
        first, end = min(skipped, file.count), min(skipped + count, file.count)
        if end > first:
            found.append(m.FileRange(file.file, file.first + first, end - first))
        skipped, count = skipped - first, count - (end - first)
    return tuple(found)


def combined(given: list[m.Facts]) -> m.Facts:
    """Of the mean over all ranks. A loss that one does not state, or that is not finite, is left out."""
    weight = math.fsum(facts.weight for facts in given)
    losses = [(facts.loss, facts.weight) for facts in given if facts.loss is not None]
    loss = _mean(losses) if len(losses) == len(given) else math.nan
    named: dict[str, list[tuple[float, float]]] = {}
    for facts in given:
        for metric in facts.metrics:
            named.setdefault(metric.name, []).append((metric.value, facts.weight))
    return replace(
        given[0],
        samples=sum(facts.samples for facts in given),
        weight=weight,
        present=bytes(reduce(or_, column) for column in zip(*(x.present for x in given), strict=True)),
        loss=loss if math.isfinite(loss) else None,
        metrics=tuple(m.Metric(name, _mean(values)) for name, values in named.items()),
    )


def _mean(weighed: list[tuple[float, float]]) -> float:
    """Of (value, weight)."""
    return math.fsum(value * weight for value, weight in weighed) / math.fsum(weight for _, weight in weighed)


def lease_text(lease: m.Lease) -> str:
    text: str = to_proto(lease).SerializeToString().hex()
    return text


def lease_from(text: str) -> m.Lease:
    return from_proto(m.Lease, coordinator_pb2.Lease.FromString(bytes.fromhex(text)))


def facts_text(facts: m.Facts) -> str:
    text: str = to_proto(facts).SerializeToString().hex()
    return text


def facts_from(text: str) -> m.Facts:
    return from_proto(m.Facts, shard_pb2.Facts.FromString(bytes.fromhex(text)))
