"""The calls one worker makes, each blocking and made once; who repeats them is the session's decision."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import sheepfold_wire.messages as m
from sheepfold.errors import Refused, ServerUnavailable
from sheepfold.events import Call, LeaseAnswer, Make, Pulled, Pushed, SessionEvent
from sheepfold.session import LEASE_WAIT_SECONDS
from sheepfold.transport import Brought, Ranges, Transport, TransportError
from sheepfold.usage import Usage
from sheepfold.waiting import Waiting
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.errors import (
    BadConfig,
    ConfigMismatch,
    NotReady,
    Overloaded,
    ShapeMismatch,
    SheepfoldError,
)
from sheepfold_wire.frames import payload_digest
from sheepfold_wire.ids import NOTHING_LOADED, AttemptId
from sheepfold_wire.job import LIVE_KEYS, Job, flat_values, job_from_json
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.plan import Plan

T = TypeVar("T")

PULL_WAIT_SECONDS = 30.0
STAGED_REMEMBERED = 16


@dataclass(frozen=True, slots=True)
class Contribution:
    """One part for each shard, in shard order, and what the worker says of them."""

    parts: tuple[Buffer, ...]
    codec: Codec
    facts: m.Facts
    brought: Brought = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """What the job turned out to be when the worker attached."""

    reply: m.AttachReply
    job: Job
    manifest: Manifest
    plan: Plan

    @classmethod
    def of(cls, reply: m.AttachReply) -> Terms:
        """Raises BadConfig for a job of a newer server, with a codec, rule or key that is unknown here."""
        try:
            job = job_from_json(reply.config_json)
        except BadConfig as error:
            raise BadConfig(
                f"job {reply.job} asks for what this version of sheepfold does not know: {error}; install "
                "the server's version here"
            ) from None
        manifest = Manifest.from_json(reply.manifest_json)
        plan = Plan.of(manifest, len(reply.shards), job.placement.split_above_bytes)
        return cls(reply, job, manifest, plan)


def another_job(before: Job, now: Job) -> str:
    """The first value that differs and that no job changes while it trains; empty if there is none."""
    old, new = (flat_values(job.model_dump(mode="json")) for job in (before, now))
    sealed = (old.keys() | new.keys()).difference(LIVE_KEYS, ["numerics.kernel"])  # chosen when it is opened
    differ = (key for key in sorted(sealed) if old.get(key) != new.get(key))
    return next((f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in differ), "")


Answer = tuple[SessionEvent | None, Buffer | None]
"""What to tell the session of a call, and the weights it brought."""


class WorkerCalls:
    """The calls of one worker in one job."""

    def __init__(self, transport: Transport, opening: m.AttachRequest, down: Codec) -> None:
        """`opening` attaches the worker; `down` is the codec of pulls."""
        self.transport = transport
        self.opening = opening
        self.down = down
        self.usage = Usage(time.monotonic)
        self.staged: deque[AttemptId] = deque(maxlen=STAGED_REMEMBERED)
        """The newest attempts that every shard has said are staged."""
        self._first: Job | None = None
        """The job as it was at the first attach."""

    def attach(self) -> Terms:
        """Raises ConfigMismatch for another job than this worker was attached to, created under its name."""
        terms = Terms.of(self.transport.call(self.opening))
        if self._first is None:
            self._first = terms.job
        elif difference := another_job(self._first, terms.job):
            raise ConfigMismatch(
                f"job {self.opening.job} is another one than this worker attached to, created under its name "
                f"since: {difference}; start the script again to train it"
            )
        return terms

    def answer(
        self,
        make: Make,
        terms: Terms | None,
        contribution: Contribution | None,
        plans_ahead: bool,
    ) -> Answer:
        """Make a lease, pull or push call that the session asks for."""
        if make.call is Call.LEASE:
            return LeaseAnswer(self.lease(make.holding, make.ends_heard, plans_ahead)), None
        assert terms is not None  # the session attaches before it asks for anything of a shard
        if make.call is Call.PULL:
            version, part = self.pull(terms, make.shard, make.version)
            return Pulled(make.shard, version, make.round), part
        assert contribution is not None
        assert make.attempt is not None
        self.push(terms, make.shard, make.attempt, contribution)
        return Pushed(make.shard, make.round), None

    def lease(self, holding: tuple[AttemptId, ...], ends_heard: int, plans_ahead: bool) -> m.LeaseReply:
        """Waits on the server for work. A lease that is not among `holding` is one whose reply was lost."""
        job, worker = self.opening.job, self.opening.worker
        request = m.LeaseRequest(job, worker, holding, LEASE_WAIT_SECONDS, ends_heard, plans_ahead)
        reply: m.LeaseReply = self.transport.call(request)
        return reply

    def pull(self, terms: Terms, shard: int, version: int | None) -> tuple[int, Buffer]:
        """(version, part); raises ShapeMismatch for a part of another length than the plan's."""
        address = terms.reply.shards[shard]
        request = m.PullRequest(
            job=terms.reply.job,
            shard=shard,
            incarnation=address.incarnation,
            manifest_digest=terms.manifest.digest,
            plan_digest=terms.plan.digest,
            codec=self.down.value,
            version=version,
            wait_seconds=PULL_WAIT_SECONDS,
            lineage=terms.reply.lineage,
        )
        (found, part), seconds = self.usage.timed(lambda: self.transport.pull(address, request))
        due = terms.plan.part_bytes(shard, self.down)
        if len(part) != due:
            raise ShapeMismatch(f"shard {shard} sent {len(part)} bytes, {due} are due; attach again")
        self.usage.pulled(shard, due, seconds, self.transport.way(address))
        return found, part

    def push(self, terms: Terms, shard: int, attempt: AttemptId, contribution: Contribution) -> None:
        """Returns once the shard has staged its part, by this call or an earlier one."""
        part, address = contribution.parts[shard], terms.reply.shards[shard]
        header = replace(
            _header(terms, shard, attempt, contribution.codec, len(part)),
            payload_digest=payload_digest(part),
            facts=contribution.facts,
        )
        brought = contribution.brought[shard] if contribution.brought else ()
        _, seconds = self.usage.timed(lambda: self.transport.push(address, header, part, brought))
        self.usage.pushed(shard, len(part), seconds, self.transport.way(address))

    def push_ahead(
        self, terms: Terms, shard: int, attempt: AttemptId, codec: Codec, part: Buffer, ranges: Ranges
    ) -> bool:
        """Some bytes of a part before the rest; whether the shard has them now."""
        header = replace(_header(terms, shard, attempt, codec, len(part)), is_ahead=True)
        return self.transport.push_ahead(terms.reply.shards[shard], header, part, ranges)

    def heartbeat(
        self, progress: tuple[m.AttemptProgress, ...], ends_heard: int, wait_seconds: float = 0.0
    ) -> m.HeartbeatReply:
        """Held by the coordinator for so long, unless an attempt ends."""
        job, worker, usage = self.opening.job, self.opening.worker, self.usage.told()
        request = m.HeartbeatRequest(job, worker, progress, ends_heard, usage, wait_seconds)
        reply: m.HeartbeatReply
        reply, seconds = self.usage.timed(lambda: self.transport.call(request))
        self.usage.round_trip(max(0.0, seconds - reply.held_seconds))
        return reply

    def release(self, attempts: tuple[AttemptId, ...], reason: str, is_leaving: bool = False) -> None:
        """All leases if `attempts` is empty, but for those in `staged`."""
        job, worker = self.opening.job, self.opening.worker
        staged = tuple(attempt for attempt in self.staged if attempt not in attempts)
        self.transport.call(m.ReleaseRequest(job, worker, attempts, is_leaving, reason, staged))


def _header(terms: Terms, shard: int, attempt: AttemptId, codec: Codec, payload_bytes: int) -> m.PushHeader:
    """Without what is only known of a whole contribution."""
    return m.PushHeader(
        job=terms.reply.job,
        attempt=attempt,
        shard=shard,
        incarnation=terms.reply.shards[shard].incarnation,
        term=terms.reply.term,
        manifest_digest=terms.manifest.digest,
        plan_digest=terms.plan.digest,
        codec=codec.value,
        payload_bytes=payload_bytes,
        payload_digest=b"",
        facts=m.Facts(samples=0, weight=0.0, base_version=NOTHING_LOADED, present=b""),
    )


log = logging.getLogger("sheepfold")

SAY_SECONDS = 3.0
"""After that long without an answer the script is told that it waits."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to insist, and how to wait in between; times in seconds."""

    give_up_seconds: float = 600.0
    pause_seconds: float = 0.1
    pause_seconds_max: float = 5.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def insist(call: Callable[[], T], patience: Patience) -> T:
    """Repeats an idempotent call while nobody answers; raises Refused or ServerUnavailable."""
    began, pause, waiting = patience.clock(), patience.pause_seconds, Waiting()
    while True:
        try:
            answer = call()
            if told := waiting.is_over(patience.clock()):
                log.warning("%s", told)
            return answer
        except (TransportError, NotReady) as error:
            waited = patience.clock() - began
            if waited >= patience.give_up_seconds:
                raise ServerUnavailable(waited, str(error)) from error
            text = f"{error}; trying for {patience.give_up_seconds:.0f} s. Is `sheepfold up` running?"
            if waited >= SAY_SECONDS and (told := waiting.goes_on(text, patience.clock())):
                log.warning("%s", told)
        except SheepfoldError as error:
            raise Refused.by(error) from error
        patience.sleep(pause)
        pause = min(2 * pause, patience.pause_seconds_max)


def for_script(error: Exception, after: float) -> Exception:
    """What a script sees of a failure that came `after` so many seconds of trying."""
    if isinstance(error, NotReady | TransportError | Overloaded):
        return ServerUnavailable(after, str(error))
    return Refused.by(error) if isinstance(error, SheepfoldError) else error
