"""A worker process: the real Session, calls over a network that loses them, a script that computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tests.sim import invariants
from tests.sim.engine import Contribution
from tests.sim.scenario import MANIFEST, SAMPLES_PER_SLOT, geometry_of

import sheepfold_wire.messages as m
from sheepfold import events as s
from sheepfold.session import LEASE_WAIT_SECONDS
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import AheadGone, SheepfoldError

if TYPE_CHECKING:
    from tests.sim.world import World

CALL_SECONDS_MAX = 3.0
PULL_WAIT_SECONDS = 2.0
BEAT_SECONDS = 0.5
LOOK = 0.2
"""How often the script pulls the newest weights for itself, as an evaluation does."""


class NetworkFailed(Exception):
    """Nobody answered: the outcome is unknown."""


@dataclass(slots=True)
class _Call:
    make: s.Make
    is_over: bool = False


class SimWorker:
    """Leases, pulls, computes and pushes until the job ends or somebody kills it."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.name = f"w{number}"
        self.session = world.cores.session(
            world.workload.random,
            give_up_seconds=1e9,
            takes_newer_versions=world.scenario.takes_newer_versions,
        )
        self.clock = world.new_clock()
        self.is_alive = True
        self.is_idle = False
        """The job told it that there is no more work."""
        self.stopped_until = 0.0
        self.pace = world.workload.choice((1.0, 1.0, 1.0, 3.0))
        self._weights: dict[int, tuple[int, int]] = {}
        """(version, value) by shard."""
        self._contribution: Contribution | None = None
        self._done = 0
        self._leaves_early = number % 2 == 1
        """Its gradients leave while they are computed."""
        self._brought: set[tuple[m.AttemptId, int]] = set()
        """Attempts and shards that have bytes of theirs already."""
        self._staged: list[m.AttemptId] = []
        """What every shard has said is staged."""

    def start(self) -> None:
        self._handle(s.Want(s.Goal.LEASE))
        self.world.at(BEAT_SECONDS, self._beat)

    def leave(self) -> None:
        """SIGTERM: hand leases back, then go."""
        staged = tuple(self._staged)
        request = m.ReleaseRequest("sim", self.name, is_leaving=True, reason="SIGTERM", staged=staged)
        self.world.call_coordinator(request, lambda reply: None)
        self.is_alive = False

    # --- the session's actions ----------------------------------------------------------------------

    def _handle(self, event: s.SessionEvent) -> None:
        world = self.world
        if not self.is_alive:
            return
        if world.now < self.stopped_until:  # SIGSTOP: everything waits for SIGCONT
            world.at(self.stopped_until - world.now, self._handle, event)
            return
        world.trace(self.name, event)
        for action in self.session.handle(event, self.clock.read(world.now)):
            self._carry_out(action)

    def _carry_out(self, action: s.SessionAction) -> None:
        world = self.world
        match action:
            case s.Make():
                self._make(action)
            case s.WaitUntil(at):
                if at == 0.0:
                    world.marks.hit("pull joined from two versions")
                world.at(self.clock.until(at, world.now), self._handle, s.Tick())
            case s.Ready(s.Goal.LEASE, lease):
                assert lease is not None
                self._compute(lease)
            case s.Ready(s.Goal.WEIGHTS):
                invariants.pure_pull(self._weights, len(world.shards), self.session.version, None)
                self._handle(s.Want(s.Goal.LEASE))
            case s.Ready(lease=lease, is_counted=is_counted):
                self._contribution = None
                self._staged += [lease.attempt] if lease is not None and is_counted else []
                looks = self.session.version >= 0 and world.workload.random() < LOOK
                self._handle(s.Want(s.Goal.WEIGHTS if looks else s.Goal.LEASE))
            case s.Ended():
                self.is_idle = True
            case s.Failed(error):
                invariants.sessions_go_on(self.name, error)

    def _make(self, make: s.Make) -> None:
        call = _Call(make)
        answered = partial(self._answered, call)
        attached = self.session.attached
        if make.call is s.Call.ATTACH:
            request = m.AttachRequest(
                "sim", self.name, "host", self.number, MANIFEST.to_json(), data_samples=1000
            )
            self.world.call_coordinator(request, answered)
        elif make.call is s.Call.LEASE:
            self.world.call_coordinator(
                m.LeaseRequest(
                    "sim",
                    self.name,
                    make.holding,
                    LEASE_WAIT_SECONDS,
                    make.ends_heard,
                    self.world.scenario.plans_ahead,
                ),
                answered,
            )
        elif make.call is s.Call.RELEASE:
            assert make.attempt is not None
            self.world.call_coordinator(m.ReleaseRequest("sim", self.name, (make.attempt,)), answered)
        elif attached is not None and make.call is s.Call.PULL:
            self.world.call_shard_pull(self._pull_request(attached, make), answered)
        elif attached is not None and self._contribution is not None:
            self._push(self._header(attached, make, self._contribution), answered)
        self.world.at(self._patience(make.call), answered, NetworkFailed(f"{make.call.name} timed out"))

    def _push(self, header: m.PushHeader, answered: Callable[[object], None]) -> None:
        """As the transport does: whole, where nothing is held of what was brought ahead."""
        contribution, place = self._contribution, (header.attempt, header.shard)
        assert contribution is not None

        def heard(answer: object) -> None:
            if isinstance(answer, AheadGone):
                self.world.call_shard_push(header, contribution, self.number, answered)
            else:
                answered(answer)

        claimed = replace(header, ahead_bytes=int(place in self._brought))
        self._brought.discard(place)
        self.world.call_shard_push(claimed, contribution, self.number, heard)

    def _push_ahead(self, contribution: Contribution) -> None:
        """Once to every shard, if it is still wanted; nobody asks what became of it but the push."""
        attached, lease = self.session.attached, self.session.lease
        if attached is None or lease is None or lease.attempt != contribution.attempt or not self.is_alive:
            return
        for shard in range(len(attached.shards)):
            make = s.Make(s.Call.PUSH, shard, attempt=lease.attempt)
            header = replace(self._header(attached, make, contribution), is_ahead=True)
            heard = partial(self._brought_ahead, (lease.attempt, shard))
            self.world.call_shard_push(header, contribution, self.number, heard)

    def _brought_ahead(self, place: tuple[m.AttemptId, int], answer: object) -> None:
        if answer == m.PushReply(False):
            self._brought.add(place)

    def _patience(self, call: s.Call) -> float:
        return LEASE_WAIT_SECONDS + 2.0 if call is s.Call.LEASE else CALL_SECONDS_MAX

    def _answered(self, call: _Call, answer: object) -> None:
        """A reply, a refusal or NetworkFailed; only the first counts."""
        if call.is_over or not self.is_alive:
            return
        call.is_over = True
        make = call.make
        if make.shard >= 0 and make.round != self.session.round:
            self.world.marks.hit("stale answer dropped")
        if isinstance(answer, Exception):
            if make.call is not s.Call.RELEASE:
                self._handle(s.CallFailed(make.call, make.shard, answer, make.round))
        elif make.call is s.Call.ATTACH:
            assert isinstance(answer, m.AttachReply)
            self._handle(s.Attached(answer))
        elif make.call is s.Call.LEASE:
            assert isinstance(answer, m.LeaseReply)
            self._handle(s.LeaseAnswer(answer))
        elif make.call is s.Call.PUSH:
            self._handle(s.Pushed(make.shard, make.round))
        elif make.call is s.Call.PULL:
            assert isinstance(answer, tuple)
            if make.round == self.session.round:
                self._weights[make.shard] = answer
            self._handle(s.Pulled(make.shard, answer[0], make.round))

    def _pull_request(self, attached: m.AttachReply, make: s.Make) -> m.PullRequest:
        geometry = geometry_of(len(attached.shards), self.world.scenario.setting.splits)
        incarnation = attached.shards[make.shard].incarnation
        return m.PullRequest(
            "sim",
            make.shard,
            incarnation,
            MANIFEST.digest,
            geometry.plan.digest,
            "bf16",
            make.version,
            PULL_WAIT_SECONDS,
            attached.lineage,
        )

    def _header(self, attached: m.AttachReply, make: s.Make, contribution: Contribution) -> m.PushHeader:
        plan = geometry_of(len(attached.shards), self.world.scenario.setting.splits).plan
        assert make.attempt is not None
        assert self.session.lease is not None
        codec = Codec.FP32 if self.session.lease.is_init else Codec.BF16
        return m.PushHeader(
            job="sim",
            attempt=make.attempt,
            shard=make.shard,
            incarnation=attached.shards[make.shard].incarnation,
            term=attached.term,
            manifest_digest=MANIFEST.digest,
            plan_digest=plan.digest,
            codec=codec.value,
            payload_bytes=plan.part_bytes(make.shard, codec),
            payload_digest=contribution.digest,
            facts=contribution.facts,
        )

    # --- the script ---------------------------------------------------------------------------------

    def _compute(self, lease: m.Lease) -> None:
        world = self.world
        seconds = world.compute_seconds(self, lease)
        if lease.is_init:
            facts = m.Facts(0, 0.0, -1, b"\x07")
            contribution = Contribution(lease.attempt, 7, not world.happens("nan"), facts, -1)
        else:
            due = None if self.session.takes_newer_versions else lease.base_version
            shards = len(world.shards)
            invariants.pure_pull(self._weights, shards, self.session.version, due)
            contribution = self._gradient(lease, self._weights[0][1])
        world.contributions[lease.attempt] = contribution
        self._contribution = contribution
        for part in (0.25, 0.5, 0.75):
            world.at(part * seconds, self._note_progress)
        if self._leaves_early and not lease.is_init:
            world.at(0.6 * seconds, self._push_ahead, contribution)
        world.at(seconds, self._offer, lease.attempt)

    def _note_progress(self) -> None:
        self._done += self.world.now >= self.stopped_until

    def _offer(self, attempt: m.AttemptId) -> None:
        if self.session.lease is not None and self.session.lease.attempt == attempt:
            self._handle(s.Offer())

    def _gradient(self, lease: m.Lease, weights: int) -> Contribution:
        """The same for equal samples, version and weights, whoever computes it; non-finite now and then."""
        setting, sequence = self.world.scenario.setting, lease.sample_start // SAMPLES_PER_SLOT
        gradient = hash((sequence, lease.seed, weights, lease.loss_scale))
        weight = (
            float(SAMPLES_PER_SLOT * (1 + sequence % 3)) if setting.weight == "tokens" else SAMPLES_PER_SLOT
        )
        facts = m.Facts(lease.sample_count, weight, self.session.version, bytes([7 if sequence % 4 else 5]))
        is_broken = setting.is_nan(lease.sample_start) or self.world.breaks(sequence)
        is_finite = not (is_broken or setting.is_too_large(lease.sample_start, lease.loss_scale))
        return Contribution(lease.attempt, gradient, is_finite, facts, sequence)

    # --- heartbeat ----------------------------------------------------------------------------------

    def _beat(self) -> None:
        world = self.world
        if not self.is_alive or self.is_idle:
            return
        world.at(BEAT_SECONDS, self._beat)
        if self.session.attached is None or world.now < self.stopped_until:
            return
        lease = self.session.lease
        progress = () if lease is None else (m.AttemptProgress(lease.attempt, self._done),)
        request = m.HeartbeatRequest(
            "sim", self.name, progress, self.session.ends_heard, wait_seconds=BEAT_SECONDS
        )
        world.call_coordinator(request, self._heard)

    def _heard(self, answer: object) -> None:
        if isinstance(answer, m.HeartbeatReply):
            self._handle(s.Heard(answer))
        elif isinstance(answer, SheepfoldError) and answer.reason == "WORKER_UNKNOWN":
            self.world.marks.hit("worker forgotten")
