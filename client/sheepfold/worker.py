"""A place in a job, without tensors: find the server and the job, attach, lease, pull, push, leave."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import sheepfold_wire.messages as m
from sheepfold.address import find_address
from sheepfold.calls import Contribution, Terms, WorkerCalls, insist
from sheepfold.driver import Driver
from sheepfold.events import Ended, Ready
from sheepfold.exits import set_exit_codes
from sheepfold.initial import read_file
from sheepfold.joining import Joining, create, job_name, opening
from sheepfold.session import Session
from sheepfold.transport import Borrowed, Brought, Ranges, Transport, TransportError, connect
from sheepfold.usage import Usage
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.digest import combine_digests
from sheepfold_wire.errors import NotReady, SheepfoldError
from sheepfold_wire.job import FIRST_WORKER, Job

Joined = TypeVar("Joined", bound="Worker")


class Worker:
    """One attached worker or reader."""

    def __init__(self, driver: Driver, terms: Terms, joining: Joining, transport: Transport) -> None:
        self._name = terms.reply.worker
        self.job = terms.job
        self.manifest = terms.manifest
        self.plan = terms.plan
        self.version_at_attach = terms.reply.version
        self.durability = terms.reply.durability
        self.down = joining.down
        self._driver, self._transport, self._patience = driver, transport, joining.patience

    @property
    def name(self) -> str:
        """As the server knows it."""
        return self._name

    @property
    def up(self) -> Codec:
        """What contributions are packed in."""
        return Codec(self.job.wire.up)

    @property
    def own_job(self) -> Job:
        """The job, with slots as large as what this process computes of one."""
        return self.job

    @property
    def leads(self) -> bool:
        """Whether it speaks for all who are this worker."""
        return True

    @property
    def version(self) -> int:
        """Version of the weights pulled last; -1 before the first."""
        return self._driver.version

    def next_lease(self) -> m.Lease:
        """Waits for work; the weights for it are then in `take_weights`. Raises JobEnded."""
        return self._driver.next_lease()

    def pull(self, version: int | None = None, limit_seconds: float | None = None) -> int:
        """Waits for a version, by default the newest; the weights are then in `take_weights`."""
        return self._driver.pull(version, limit_seconds)

    def take_weights(self) -> tuple[Buffer, ...] | None:
        """Parts of the last pull, in codec `down`; None if the weights were in place already."""
        return self._driver.take_weights()

    def confirm_weights(self) -> None:
        """The weights taken are in place."""
        self._driver.confirm_weights()

    def room(self, shard: int, size: int) -> memoryview | None:
        """Memory to pack a shard's part into, see `Transport.room`."""
        return self._transport.room(self._driver.terms.reply.shards[shard], size)

    def push_init(self, parts: tuple[Buffer, ...], present: bytes) -> Ready | Ended:
        """The initial weights, fp32. They count as no samples; any weight above 0 would do."""
        facts = m.Facts(samples=0, weight=1.0, base_version=self.version, present=present)
        return self._driver.push(Contribution(parts, Codec.FP32, facts))

    def push(self, parts: tuple[Buffer, ...], facts: m.Facts, brought: Brought = ()) -> Ready | Ended:
        """A contribution to the lease held, in codec `up`. A loss that is not finite is left out."""
        return self._push(parts, facts, None, brought)

    def push_ahead(self, attempt: m.AttemptId, shard: int, part: Buffer, ranges: Ranges) -> bool:
        """Some bytes of a part, before `push`; whether the shard has them now. From any thread.

        Made once, not repeated. Raises SheepfoldError, TransportError.
        """
        driver = self._driver
        is_brought = driver.calls.push_ahead(driver.terms, shard, attempt, self.up, part, ranges)
        driver.note_progress()
        return is_brought

    def push_for(self, lease: m.Lease, parts: tuple[Buffer, ...], facts: m.Facts) -> Ready | Ended:
        """The same for a lease of this job that another session was given."""
        return self._push(parts, facts, lease)

    def _push(
        self, parts: tuple[Buffer, ...], facts: m.Facts, lease: m.Lease | None, brought: Brought = ()
    ) -> Ready | Ended:
        if facts.loss is not None and not math.isfinite(facts.loss):
            facts = replace(facts, loss=None)
        return self._driver.push(Contribution(parts, self.up, facts, brought), lease)

    @property
    def pushes_beside(self) -> bool:
        """Whether a push may go on while the next slot is leased, pulled and computed."""
        return self.job.batch.delay > 0

    @property
    def against_overlap(self) -> str:
        """Why gradients cannot leave while backward runs; "" where they can."""
        if self.pushes_beside:
            return "with batch.delay a push goes on beside the next slot anyway"
        if self.job.loss_scale is not None:
            return "gradients are divided by the loss scale in step()"
        return ""

    def second(self) -> Worker:
        """Another session in the same job, for pushes beside this one's calls; what it measures is ours."""
        ours = self._driver.calls.opening
        other = join(
            Joining(
                self.job.name,
                Borrowed(self._transport),
                down=self.down,
                notice_seconds=self.notice_seconds,
                patience=self._patience,
                network=ours.network,
            )
        )
        other._driver.calls.usage, other._driver.calls.staged = self.usage, self._driver.calls.staged
        return other

    @property
    def notice_seconds(self) -> float:
        """What a worker that is told to go may take to finish its slot."""
        return self._driver.slot_clock.notice_seconds

    def slot_is_over(self) -> None:
        """It is computed, and pushed by another session."""
        self._driver.slot_clock.end(is_counted=True)

    @property
    def usage(self) -> Usage:
        """What it has measured of itself."""
        return self._driver.usage

    @property
    def plans_ahead(self) -> bool:
        """Whether samples are loaded before they are leased: the server then says what to expect."""
        return self._driver.plans_ahead

    @plans_ahead.setter
    def plans_ahead(self, value: bool) -> None:
        self._driver.plans_ahead = value

    def outcome(self, attempt: m.AttemptId) -> m.AttemptEnd | None:
        """What became of one of the newest attempts; None while it is not known."""
        return self._driver.outcome(attempt)

    def chore(self, name: str, every: int) -> m.ChoreReply:
        """Whether this worker is to do it. Raises Refused, ServerUnavailable."""
        request = m.ChoreRequest(self.job.name, self.name, name, every)
        reply: m.ChoreReply = insist(lambda: self._transport.call(request), self._patience)
        return reply

    def evaluated(self, metrics: Mapping[str, float], version: int) -> m.EvaluationReply:
        """What a version is worth. Raises Refused, ServerUnavailable."""
        told = tuple(m.Metric(name, float(value)) for name, value in metrics.items())
        request = m.EvaluationRequest(self.job.name, version, told, self.name)
        reply: m.EvaluationReply = insist(lambda: self._transport.call(request), self._patience)
        return reply

    def pin(self, name: str, seconds: float) -> m.PinReply:
        """Keep the newest version served for so long; 0 ends the pin. Raises Refused, ServerUnavailable."""
        request = m.PinRequest(self.job.name, name, seconds)
        reply: m.PinReply = insist(lambda: self._transport.call(request), self._patience)
        return reply

    def status(self) -> m.JobStatus:
        """Raises Refused, ServerUnavailable."""
        request = m.StatusRequest(self.job.name)
        reply: m.JobStatus = insist(lambda: self._transport.call(request), self._patience)
        return reply

    def note_progress(self) -> None:
        self._driver.note_progress()

    def release(self, reason: str, attempts: tuple[m.AttemptId, ...] = ()) -> None:
        """Hand leases back at once, all or these, instead of letting them expire."""
        self._driver.release(reason, attempts)

    def hand_back(self, attempt: m.AttemptId, reason: str) -> None:
        """One that another session could not push; from any thread. A failure is no matter: it expires."""
        with suppress(SheepfoldError, TransportError):
            self._driver.calls.release((attempt,), reason)

    def source(self, framework: str) -> dict[str, Any] | None:
        """The tensors that version 0 is to be made of, by their names there; None: the worker's own.

        As "np" arrays, or "pt" tensors from a file. Raises Refused, ServerUnavailable.
        """
        source = self.job.init.source
        if source == FIRST_WORKER:
            return None
        if source.startswith("file:"):
            return read_file(source.removeprefix("file:"), framework)
        from sheepfold.numpy_client import Client

        name, _, version = source.partition("@")
        with Client(name, address=Borrowed(self._transport)) as reader:
            return dict(reader.pull(None if version == "latest" else int(version)))

    def digest(self) -> tuple[int, str]:
        """(version, SHA-256 hex) of weights, moments and counters on all shards, all at one version."""
        return insist(self._digest, self._patience)

    def _digest(self) -> tuple[int, str]:
        replies = [self._transport.digest(shard, self.job.name) for shard in self._driver.terms.reply.shards]
        versions = sorted({reply.version for reply in replies})
        if len(versions) > 1:
            raise NotReady(
                f"the shards stand at versions {versions}; ask between two steps, or pause the job"
            )
        entries = ((entry.index, entry.digest) for reply in replies for entry in reply.entries)
        return versions[0], combine_digests(entries)

    def close(self) -> None:
        """Hand leases back and leave. May be repeated."""
        self._driver.close()


def join(joining: Joining) -> Worker:
    """Attach to a job, creating it first if a config is given.

    Raises BadAddress, TransportMissing, Refused, ServerUnavailable, JobEnded.
    """
    return join_as(joining, Worker)


def join_as(joining: Joining, kind: type[Joined]) -> Joined:
    """As a worker of this kind."""
    set_exit_codes()
    given = joining.address
    network = joining.network
    if given is None or isinstance(given, str):
        address = find_address(given)
        used, network = connect(address), address.network
    else:
        used = given
    try:
        name = job_name(joining, used)
        calls = WorkerCalls(used, replace(opening(joining, name), network=network), joining.down)
        if joining.config is not None:
            create(joining, calls)
        session = Session(joining.jitter, joining.patience.give_up_seconds, share=joining.share)
        driver = Driver(calls, session, joining.patience.clock, joining.notice_seconds)
    except BaseException:
        used.close()
        raise
    try:
        return kind(driver, driver.attach(), joining, used)
    except BaseException:
        driver.close()
        raise
