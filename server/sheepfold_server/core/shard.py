"""One job on one shard: the state machine that stages parts, folds them in slot order and applies steps.

One door: `handle(event) -> [effect]`. It never sees a tensor: parts are named by their attempt, the kernel
thread carries out effects in their order and answers with events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.parts import Part, Parts, PartState
from sheepfold_server.core.pulls import Pulls
from sheepfold_wire.errors import (
    AttemptNotAnnounced,
    ContributionConflict,
    JobUnknown,
    ManifestMismatch,
    NonFinite,
    PlanMismatch,
    PushInProgress,
    SheepfoldError,
    ShapeMismatch,
    StaleIncarnation,
    StaleTerm,
)
from sheepfold_wire.ids import NOTHING_LOADED, AttemptId

EARLY_MAX = 64
"""Pushes held for their announcement; a call each, so as many as the shell serves at once."""


class SumPhase(Enum):
    FOLDING = auto()
    FINISHING = auto()
    PREPARED = auto()
    DIRECTIONS = auto()
    NORMS = auto()
    APPLYING = auto()


@dataclass(slots=True)
class Sum:
    """The sum of one open step."""

    step: int
    phase: SumPhase = SumPhase.FOLDING
    admitted: dict[int, tuple[AttemptId, float]] = field(default_factory=dict)
    """(attempt, factor) by slot."""
    folded: int = 0
    folding_until: int | None = None
    can_refold: bool = True
    close: m.Close | None = None
    prepared: m.Prepared | None = None
    decision: m.Commit | None = None
    norms: m.Norms | None = None
    fold_seconds: float = 0.0
    awaited: int | None = None
    """Number of the kernel effect whose answer is awaited."""


@dataclass(frozen=True, slots=True)
class ShardJob:
    """What is fixed about a job on this shard."""

    job: str
    shard: int
    incarnation: int
    term: int
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
    holds_split: bool
    """Whether blocks of a split slice live here."""


class Shard:
    """Stages, folds and applies for one job, as the coordinator says."""

    def __init__(self, job: ShardJob) -> None:
        self.job = job
        self.version: int = NOTHING_LOADED
        self._sums: dict[int, Sum] = {}
        self._parts = Parts(job.part_slots)
        self._early: dict[int, e.PushOpened] = {}
        """Pushes of attempts that are not announced yet, by token."""
        self._pulls = Pulls()
        self._fold = 0
        """Number of the newest kernel effect on a sum; answers about a sum that was dropped are ignored."""
        self._is_loading = False
        self._newest_applied: m.Applied | None = None
        self._out: list[e.ShardEffect] = []

    def handle(self, event: e.ShardEvent) -> list[e.ShardEffect]:
        """Take one event; returns what to do, in order."""
        match event:
            case e.Command(command):
                self._on_command(command)
            case e.PushOpened():
                self._on_push(event)
            case e.PushReceived():
                self._on_received(event)
            case e.PushBroken(token):
                self._early.pop(token, None)
                self._parts.broken(token)
            case e.PullAsked(token, version):
                self._out.extend(self._pulls.ask(token, version, self.version, self.is_applying()))
            case e.PullGone(token):
                self._pulls.forget(token)
            case e.DigestAsked(token):
                self._out.extend(self._pulls.ask_digest(token, self.version, self.is_applying()))
            case e.Loaded():
                self._on_loaded()
            case e.FoldDone() | e.FoldFailed() | e.SumReady() | e.Appended():
                self._on_sum(event)
            case e.DirectionsReady():
                self._on_directions(event)
            case e.WeightsReady():
                self._on_weights(event)
        out, self._out = self._out, []
        return out

    def _report(self, report: m.ShardReport) -> None:
        self._out.append(e.Report(report))

    def is_applying(self) -> bool:
        """Whether moments are ahead of weights just now."""
        phases = (SumPhase.DIRECTIONS, SumPhase.NORMS, SumPhase.APPLYING)
        return any(s.phase in phases for s in self._sums.values())

    # --- pushes -------------------------------------------------------------------------------------

    def _on_push(self, event: e.PushOpened) -> None:
        try:
            self._check_header(event.header)
            part = self._parts.find(event.header.attempt, self.version)
            self._check_part(part, event.header)
        except AttemptNotAnnounced as error:
            self._wait_for_announcement(event, error)
            return
        except SheepfoldError as error:
            self._out.append(e.RefusePush(event.token, error))
            return
        if part.state is not PartState.EXPECTED:
            self._out.append(e.AnswerPush(event.token, is_duplicate=True))
            return
        evicted = self._parts.receive(part, event.token, event.header)
        if evicted is not None:
            self._evict(evicted)
        self._out.append(e.ReceiveBody(event.token, part.attempt))

    def _wait_for_announcement(self, event: e.PushOpened, error: AttemptNotAnnounced) -> None:
        """A worker may be quicker than the coordinator's word of its lease: hold its header for a moment."""
        if len(self._early) < EARLY_MAX:
            self._early[event.token] = event
        else:
            self._out.append(e.RefusePush(event.token, error))

    def _check_header(self, header: m.PushHeader) -> None:
        job = self.job
        if header.job != job.job or header.shard != job.shard:
            raise JobUnknown(f"this is shard {job.shard} of job {job.job}, the part is for shard {header.shard} of {header.job}")
        check_target(job, header.incarnation, header.manifest_digest, header.plan_digest)
        if header.term != job.term:
            raise StaleTerm(f"the part was leased in term {header.term}, the coordinator is in term {job.term}; attach again")

    def _check_part(self, part: Part, header: m.PushHeader) -> None:
        job = self.job
        codec, due = ("fp32", job.init_bytes) if part.is_init else (job.codec, job.part_bytes)
        if header.codec != codec:
            raise ShapeMismatch(f"the part is encoded as {header.codec!r}, job {job.job} takes {codec!r} (wire.up)")
        if header.payload_bytes != due:
            raise ShapeMismatch(f"the part has {header.payload_bytes} bytes, shard {job.shard} expects {due}")
        if len(header.facts.present) != job.presence_bytes:
            raise ShapeMismatch(
                f"the presence bitmap has {len(header.facts.present)} bytes, {job.presence_bytes} are expected for the manifest"
            )
        if part.header is None:
            return
        same = part.header.payload_digest == header.payload_digest and part.header.facts == header.facts
        if not same:
            raise ContributionConflict(
                f"attempt {part.attempt} was pushed with digest {part.header.payload_digest.hex()}, now with "
                f"{header.payload_digest.hex()}; one attempt is one contribution"
            )
        if part.state is PartState.RECEIVING:
            raise PushInProgress(f"attempt {part.attempt} is being received on another stream; wait, then send it again")

    def _on_received(self, event: e.PushReceived) -> None:
        part = self._parts.of_token(event.token)
        if part is None or part.header is None:  # ended while it was on the way
            self._out.append(e.RefusePush(event.token, self._parts.ended_error()))
            return
        check = event.check
        if check.nonfinite_count:
            self._parts.refused(part)
            self._out.append(e.DropParts((part.attempt,)))
            text = f"{check.nonfinite_count} elements of tensor {check.nonfinite_tensor} are NaN or infinite"
            self._report(m.PartRefused(self.job.job, part.attempt, check.nonfinite_tensor, check.nonfinite_count))
            self._out.append(e.RefusePush(event.token, NonFinite(f"{text}; the slot is leased again")))
            return
        self._parts.staged(part)
        self._report(
            m.Staged(self.job.job, part.attempt, part.header.payload_digest, part.header.facts, check.sum_of_squares)
        )
        self._out.append(e.AnswerPush(event.token, is_duplicate=False))

    def _evict(self, part: Part) -> None:
        """Raw bytes of a folded slot make room; its step can then only be restarted, not refolded."""
        self._out.append(e.DropParts((part.attempt,)))
        found = self._sums.get(part.step if part.step is not None else -1)
        if found is not None and found.can_refold:
            found.can_refold = False
            self._report(m.Folded(self.job.job, found.step, found.folded, False))

    # --- commands -----------------------------------------------------------------------------------

    def _on_command(self, command: m.ShardCommand) -> None:
        match command:
            case m.OpenJob():
                self._on_open()
            case m.Expect():
                self._on_expect(command)
            case m.EndAttempts():
                self._drop([key for key in command.attempts if not self._parts.is_admitted(key)])
            case m.LoadInit():
                self._on_load(command)
            case m.Admit():
                self._on_admit(command)
            case m.Refold():
                self._on_refold(command)
            case m.Restart():
                self._reset_sum(command.step, drop=self._parts.of_step(command.step))
            case m.Close():
                self._on_close(command)
            case m.Commit():
                self._on_commit(command)
            case m.Totals():
                self._on_totals(command)
            case m.CloseJob() | m.Welcome():
                pass

    def _on_expect(self, command: m.Expect) -> None:
        self._parts.expect(command.attempt, command.is_init, command.step)
        for token, event in list(self._early.items()):
            if event.header.attempt == command.attempt:
                del self._early[token]
                self._on_push(event)

    def _drop(self, attempts: list[AttemptId]) -> None:
        held = self._parts.drop(attempts)
        if held:
            self._out.append(e.DropParts(held))

    def _on_open(self) -> None:
        """Said once, and again after a link came back: say where we stand, forget what is undecided."""
        self._drop(self._parts.unadmitted())
        self._report(m.JobOpened(self.job.job, self.job.part_slots, self.version))
        if self.version > NOTHING_LOADED:
            self._report_applied()
        for step in sorted(self._sums):
            norms = self._sums[step].norms
            if norms is not None:
                self._report(norms)

    def _report_applied(self) -> None:
        if self._newest_applied is not None:
            self._report(self._newest_applied)

    def _on_load(self, command: m.LoadInit) -> None:
        if self.version > NOTHING_LOADED:
            self._report_applied()
        elif not self._is_loading:
            self._is_loading = True
            self._out.append(e.LoadState(command.attempt))

    def _on_loaded(self) -> None:
        self.version, self._is_loading = 0, False
        self._drop(self._parts.unadmitted())
        self._newest_applied = m.Applied(self.job.job, -1, ())
        self._report_applied()
        self._serve_pulls()

    def _on_admit(self, command: m.Admit) -> None:
        if command.step < self.version:
            return
        found = self._sums.setdefault(command.step, Sum(command.step))
        known = found.admitted.get(command.slot)
        if known is not None and known[0] == command.attempt:
            return
        if known is not None or not self._parts.admit(command.attempt, command.step):
            self._halt(f"slot {command.slot} of step {command.step} is admitted as {command.attempt}, held is {known}")
            return
        found.admitted[command.slot] = (command.attempt, command.factor)
        self._fold_ready(found)

    def _halt(self, why: str) -> None:
        self._report(m.ShardFailed(self.job.job, why))
        self._out.append(e.Halt(why))

    def _next_fold(self, found: Sum) -> int:
        self._fold += 1
        found.awaited = self._fold
        return self._fold

    def _fold_ready(self, found: Sum) -> None:
        """Fold every slot that is next in order, several per pass; finish the sum if it is closed."""
        if found.folding_until is not None or found.phase is not SumPhase.FOLDING:
            return
        slots = []
        while found.folded + len(slots) in found.admitted:
            slot = found.folded + len(slots)
            slots.append((slot, *found.admitted[slot]))
        if slots:
            found.folding_until = found.folded + len(slots)
            self._out.append(e.FoldSlots(found.step, self._next_fold(found), found.folded == 0, tuple(slots)))
        elif found.close is not None and found.folded == len(found.close.slots):
            found.phase = SumPhase.FINISHING
            self._out.append(e.FinishSum(found.step, self._next_fold(found), found.close.divisor))

    def _on_sum(self, event: e.FoldDone | e.FoldFailed | e.SumReady | e.Appended) -> None:
        """The kernel answers; what belongs to a sum that was dropped meanwhile is ignored."""
        found = self._sums.get(event.step)
        if found is None or event.fold != found.awaited:
            return
        found.awaited = None
        match event:
            case e.FoldDone():
                assert found.folding_until is not None
                found.folded, found.folding_until = found.folding_until, None
                found.fold_seconds += event.seconds
                self._parts.folded(key for key, _ in (found.admitted[s] for s in range(found.folded)))
                self._report(m.Folded(self.job.job, found.step, found.folded, found.can_refold))
                self._fold_ready(found)
            case e.FoldFailed():
                found.folding_until, found.can_refold = None, False
                self._report(m.Folded(self.job.job, found.step, 0, False))
                self._report(m.PartLost(self.job.job, found.step, event.slot))
            case e.SumReady():
                assert found.close is not None
                close = found.close
                found.prepared = m.Prepared(
                    self.job.job, found.step, close.map_digest, event.is_finite, event.max_abs, event.sum_of_squares
                )
                self._out.append(e.Append(found.step, self._next_fold(found), close.map_digest, close.slots))
            case e.Appended():
                assert found.prepared is not None
                found.phase = SumPhase.PREPARED
                self._report(found.prepared)

    def _on_refold(self, command: m.Refold) -> None:
        """Forget the lost slots; the sum begins again from raw bytes if it had gone past them."""
        found = self._sums.get(command.step)
        if found is None:
            return
        lost = [found.admitted.pop(slot)[0] for slot in command.lost_slots if slot in found.admitted]
        reached = found.folded if found.folding_until is None else found.folding_until
        self._parts.forget_admission(lost)
        self._drop(lost)
        found.close, found.prepared, found.phase = None, None, SumPhase.FOLDING
        if reached > min(command.lost_slots):
            self._forget_folds(found)
        self._fold_ready(found)

    def _forget_folds(self, found: Sum) -> None:
        """The kernel's answers about this sum no longer matter; its numbers start anew."""
        found.folded, found.folding_until, found.awaited = 0, None, None
        self._out.append(e.DiscardSum(found.step))
        self._report(m.Folded(self.job.job, found.step, 0, found.can_refold))

    def _on_close(self, command: m.Close) -> None:
        found = self._sums.setdefault(command.step, Sum(command.step))
        if command.step < self.version:
            return
        mine = tuple(m.SlotEntry(slot, found.admitted[slot][0]) for slot in sorted(found.admitted))
        if mine != command.slots:
            self._halt(f"step {command.step} is closed with map {command.map_digest}, which is not what was admitted here")
            return
        if found.prepared is not None and found.phase is SumPhase.PREPARED:
            self._report(found.prepared)
            return
        found.close = command
        self._fold_ready(found)

    def _reset_sum(self, step: int, drop: list[AttemptId]) -> None:
        found = self._sums.get(step)
        if found is not None and found.decision is not None:
            self._halt(f"step {step} is decided and cannot be restarted")
            return
        self._parts.forget_admission(drop)
        self._drop(drop)
        if found is not None:
            self._forget_folds(found)
            del self._sums[step]

    # --- commit and apply -----------------------------------------------------------------------------

    def _on_commit(self, command: m.Commit) -> None:
        if command.step < self.version:
            self._report_applied()
            return
        found = self._sums.setdefault(command.step, Sum(command.step))
        if command.step != self.version:
            self._halt(f"commit of step {command.step}, version {self.version} is next")
            return
        if found.decision is not None:
            return
        if command.is_skip:
            found.decision = command
            self._forget_folds(found)
            self._out.append(e.KeepVersion(command.step))
            self._finish_step(found, (), 0.0, 0.0)
            return
        if found.prepared is None or found.phase is not SumPhase.PREPARED or found.prepared.map_digest != command.map_digest:
            self._halt(f"commit of step {command.step} with map {command.map_digest}, which is not prepared here")
            return
        found.decision, found.phase = command, SumPhase.DIRECTIONS
        self._out.append(e.ComputeDirections(command))

    def _on_directions(self, event: e.DirectionsReady) -> None:
        found = self._sums[event.step]
        assert found.decision is not None
        if self.job.holds_split:
            found.phase = SumPhase.NORMS
            found.norms = m.Norms(self.job.job, event.step, event.split_blocks)
            self._report(found.norms)
        else:
            found.phase = SumPhase.APPLYING
            self._out.append(e.ApplyUpdate(found.decision))

    def _on_totals(self, command: m.Totals) -> None:
        found = self._sums.get(command.step)
        if found is None or found.phase is not SumPhase.NORMS or found.decision is None:
            return
        found.phase, found.norms = SumPhase.APPLYING, None
        self._out.append(e.ApplyUpdate(found.decision, command.slices))

    def _on_weights(self, event: e.WeightsReady) -> None:
        self._finish_step(self._sums[event.step], event.slices, event.apply_seconds, event.encode_seconds)

    def _finish_step(
        self, found: Sum, slices: tuple[m.SliceReport, ...], apply_seconds: float, encode_seconds: float
    ) -> None:
        """Version t + 1 is visible here; parts of the step are remembered by digest only."""
        self.version = found.step + 1
        self._drop([key for key in self._parts.of_step(found.step) if not self._parts.is_admitted(key)])
        held = self._parts.commit(found.step, keep_since=self.version - self.job.open_steps)
        if held:
            self._out.append(e.DropParts(held))
        del self._sums[found.step]
        self._pulls.oldest = max(0, self.version - self.job.open_steps)
        self._out.append(e.RetireVersions(self._pulls.oldest))
        self._newest_applied = m.Applied(
            self.job.job, found.step, slices, found.fold_seconds, apply_seconds, encode_seconds
        )
        self._report_applied()
        self._serve_pulls()

    def _serve_pulls(self) -> None:
        self._out.extend(self._pulls.applied(self.version, self.is_applying()))


def check_target(job: ShardJob, incarnation: int, manifest_digest: str, plan_digest: str) -> None:
    """Refuse a request that means another process, model or cut than this shard's; pushes and pulls alike."""
    if incarnation != job.incarnation:
        raise StaleIncarnation(f"the request means incarnation {incarnation} of shard {job.shard}, this is {job.incarnation}; attach again")
    if manifest_digest != job.manifest_digest:
        raise ManifestMismatch(f"the request's manifest is {manifest_digest[:12]}, job {job.job} has {job.manifest_digest[:12]}; attach with the job's model")
    if plan_digest != job.plan_digest:
        raise PlanMismatch(f"the request's plan is {plan_digest[:12]}, job {job.job} has {job.plan_digest[:12]}; attach again")
