"""What stands around the cores in the world: a shard with its engine and link, and calls that get lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.sim import invariants
from tests.sim.engine import Contribution, Engine, KernelEffect, Logged
from tests.sim.links import Stream
from tests.sim.scenario import MANIFEST, geometry_of
from tests.sim.store import StoredPart

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.headers import ShardJob, check_pull
from sheepfold_server.core.records import StateSaved, VersionServed
from sheepfold_server.core.replay import Recovered, Replay, RestoreState, VersionDone, may_save, replayed
from sheepfold_server.core.shard import Shard
from sheepfold_server.core.steps import Phase
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import AheadGone, AttemptNotAnnounced, NotReady, SheepfoldError, StaleTerm
from sheepfold_wire.ids import NO_ATTEMPT

if TYPE_CHECKING:
    from tests.sim.world import World

Answered = Callable[[object], None]
"""Called with a reply or a SheepfoldError, when the server answers."""

ANNOUNCEMENT_SECONDS = 2.0
OPEN_SECONDS = 0.01
FOLD_SECONDS = 0.01
APPEND_SECONDS = 0.02
APPLY_SECONDS = 0.03
STORE_SECONDS = 0.2
SAVES = 0.15
"""Share of steps after which the state is saved."""


@dataclass(slots=True)
class _Push:
    contribution: Contribution
    answered: Answered
    sender: int
    """Number of the worker process."""
    claims_ahead: bool
    """Whether it says that bytes of it were pushed ahead."""


@dataclass(slots=True)
class ShardHost:
    """One shard process: core, engine, link, and the callers that wait."""

    world: World
    index: int
    make: Callable[[ShardJob, Recovered | None], Shard]
    stream: Stream
    disks: dict[str, list[Logged]] = field(default_factory=dict)
    """The log of each lineage."""
    incarnation: int = 0
    life: int = 0
    """Number of the process and of the lineage in it: what began in an earlier one is nobody's any more."""
    has_lost: bool = False
    """Its disk, and nobody has gone back yet."""
    shard: Shard | None = None
    _queue: deque[tuple[KernelEffect, tuple[Contribution | None, ...]]] = field(default_factory=deque)
    _is_busy: bool = False
    _pushes: dict[int, _Push] = field(default_factory=dict)
    _pulls: dict[int, Answered] = field(default_factory=dict)
    _ledger_seen: int = 0
    engine: Engine = field(init=False)
    _last_open: m.OpenJob | None = None
    _newest_open: m.OpenJob | None = None

    def __post_init__(self) -> None:
        self._begin()

    # --- its life -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        """A new process, with what is on the disk."""
        self.incarnation = self.world.next_incarnation()
        self._pushes.clear()
        self._pulls.clear()
        self._begin_lineage("")

    def _begin_lineage(self, lineage: str) -> None:
        world = self.world
        geometry = geometry_of(world.scenario.shards, world.scenario.setting.splits)
        disk = self.disks.setdefault(lineage, [])
        self.engine = Engine(self.index, world.scenario.setting, geometry, disk)
        self.shard, self._is_busy, self._ledger_seen = None, False, 0
        self.life = world.number()
        self._queue.clear()

    def _end_lineage(self) -> None:
        """Whoever waits is told; the kernel does nothing more for it."""
        waiting = [push.answered for push in self._pushes.values()] + list(self._pulls.values())
        self._pushes.clear()
        self._pulls.clear()
        for answered in waiting:
            answered(StaleTerm("the job went back to a checkpoint"))
        self._begin_lineage("")

    def crash(self) -> None:
        """kill -9: all but the disk is gone; calls are never answered. Started again a moment later."""
        chance = self.world.strikes.chance
        self.world.marks.hit("shard killed")
        if any(step.phase is Phase.APPLYING for step in self.world.state.steps.values()):
            self.world.marks.hit("shard killed while a step was applied")
        self._begin()
        if self.world.has_checkpoint() and self.world.happens("lose_disk"):
            self.world.marks.hit("disk of a shard lost")
            self.disks.clear()
            self.has_lost = True
        self.world.links.process_lost(self, chance)

    def recover(self) -> None:
        """At the end: what the disk has, if the process is gone just now."""
        if self.shard is None and self._last_open is not None:
            self._open(self._last_open)

    def _open(self, command: m.OpenJob) -> None:
        job, self._last_open = self._fixed(command), command
        self._begin_lineage(command.lineage)
        self._begin_with(command.restore)
        replay = Replay(job.holds_split, job.counts_skips)
        for place, (record, _) in enumerate(self.engine.disk):
            for effect in invariants.replayed(self.index, replay, record, place):
                if isinstance(effect, RestoreState):
                    self.world.marks.hit("state restored")
                self.engine.redo(effect, job.open_steps)
        for effect in replay.finish():
            self.engine.redo(effect, job.open_steps)
        found = replay.recovered((), replay.oldest_version(job.open_steps))
        if found.init is not None:
            part = self.engine.disk[found.init_place][1]
            assert isinstance(part, Contribution)
            self.engine.bytes[found.init] = part
            self.world.marks.hit("initial weights found in the log")
        if found.prepared is not None:
            self.world.marks.hit("prepared sum found in the log")
        self.shard = self.make(job, found if self.engine.disk else None)

    def _begin_with(self, ref: m.CheckpointRef | None) -> None:
        """A lineage that began with a checkpoint, and of which the disk has nothing."""
        disk = self.engine.disk
        if ref is None or any(isinstance(record, StateSaved) for record, _ in disk):
            return
        state, older = self.world.store.read(ref, self.index)
        invariants.read_as_stored(self.world.store, ref, self.index, state)
        disk += [(VersionServed(version), weights) for version, weights in older]
        disk.append((StateSaved(ref.version, (), NO_ATTEMPT), state))

    # --- from the coordinator -----------------------------------------------------------------------

    def command(self, command: m.ShardCommand) -> None:
        if isinstance(command, m.OpenJob):
            self._newest_open = command
        if isinstance(command, m.OpenJob) and not self._is_open(command):
            world, seconds = self.world, OPEN_SECONDS * self.world.workload.uniform(0.2, 3.0)
            if world.happens("open_slowly"):
                seconds += world.strikes.chance.uniform(0.5, 4.0)
            world.at(seconds, self._open_new, self.incarnation, command)
        elif self.shard is not None:
            self.handle(e.Command(command))

    def _is_open(self, command: m.OpenJob) -> bool:
        """Whether the job is open, unless in an earlier lineage: that is closed."""
        if self.shard is None:
            return False
        is_known = self.shard.job.lineage == command.lineage or self.shard.job.term > command.term
        if not is_known:
            self._end_lineage()
        return is_known

    def _open_new(self, incarnation: int, command: m.OpenJob) -> None:
        """Beside the link, on which something later may have been said meanwhile."""
        if self.incarnation != incarnation:
            return
        if not self._is_open(command):
            self._open(command)
        if self.is_newest(command):
            self.handle(e.Command(command))
        else:
            self.world.marks.hit("opened for a link that is over")

    def is_newest(self, command: m.OpenJob) -> bool:
        """Whether nothing was said of the job since, on this link or a later one."""
        return command is self._newest_open

    def _fixed(self, command: m.OpenJob) -> ShardJob:
        plan, geometry = self.engine.geometry.plan, self.engine.geometry
        return ShardJob(
            job=command.job,
            shard=self.index,
            incarnation=self.incarnation,
            term=command.term,
            lineage=command.lineage,
            manifest_digest=MANIFEST.digest,
            plan_digest=plan.digest,
            codec="bf16",
            part_bytes=plan.part_bytes(self.index, Codec.BF16),
            init_bytes=plan.part_bytes(self.index, Codec.FP32),
            presence_bytes=1,
            part_slots=self.world.scenario.part_slots[self.index],
            open_steps=self.world.job.batch.open_steps,
            delay=self.world.job.batch.delay,
            holds_split=self.index in geometry.split_shards,
        )

    # --- from workers -------------------------------------------------------------------------------

    def push(self, header: m.PushHeader, contribution: Contribution, sender: int, answered: Answered) -> None:
        if self.shard is None:
            answered(NotReady("the job is not open here"))
            return
        token = self.world.number()
        self._pushes[token] = _Push(contribution, answered, sender, header.ahead_bytes > 0)
        self.handle(e.PushOpened(token, header))
        if token in self._early():
            self.world.marks.hit("push before its announcement")
            self.world.at(ANNOUNCEMENT_SECONDS, self._announcement_due, token)

    def _early(self) -> Container[int]:
        """Pushes that wait for their announcement; the process may have died meanwhile."""
        return () if self.shard is None else self.shard._receiving._early

    def _announcement_due(self, token: int) -> None:
        """The shell holds a header only for a moment."""
        if token in self._early():
            self.handle(e.PushBroken(token))
            self._pushes.pop(token).answered(AttemptNotAnnounced("not announced yet"))

    def pull(self, request: m.PullRequest, answered: Answered) -> None:
        if self.shard is None:
            answered(NotReady("the job is not open here"))
            return
        try:
            check_pull(self.shard.job, request)
        except SheepfoldError as error:
            answered(error)
            return
        token = self.world.number()
        self._pulls[token] = answered
        self.handle(e.PullAsked(token, request.version))
        if token in self._pulls:
            self.world.marks.hit("pull waited")
            self.world.at(request.wait_seconds, self._pull_gone, token)

    def _pull_gone(self, token: int) -> None:
        if self._pulls.pop(token, None) is not None:
            self.handle(e.PullGone(token))

    def _body_arrived(self, token: int) -> None:
        push = self._pushes.get(token)
        if push is None:  # of a process that died
            return
        if not self.world.is_alive(push.sender) or self.world.happens("break_push"):
            del self._pushes[token]
            self.handle(e.PushBroken(token))
            return
        blocks = len(self.engine.geometry.blocks_of_shard[self.index])
        is_finite = push.contribution.is_finite
        check = e.PartCheck((1.0,) * blocks, "", 0) if is_finite else e.PartCheck((), "dense", 3)
        self.handle(e.PushReceived(token, check))

    # --- effects ------------------------------------------------------------------------------------

    def handle(self, event: e.ShardEvent) -> None:
        assert self.shard is not None
        self.world.trace(f"shard {self.index}", event)
        life = self.life
        for effect in self.shard.handle(event):
            if self.world.happens("crash"):
                self.crash()
            if self.life != life:  # it died, perhaps in an effect of an effect
                return
            self._carry_out(effect)
        self._check()

    def _carry_out(self, effect: e.ShardEffect) -> None:
        world, engine = self.world, self.engine
        match effect:
            case e.Report(report):
                world.marks.of_report(report)
                world.links.report(self, report)
            case e.ReceiveAhead(token, attempt):
                engine.ahead.add(attempt)
                self._pushes.pop(token).answered(m.PushReply(False))
            case e.ReceiveBody(token, attempt):
                is_ahead, claims = attempt in engine.ahead, self._pushes[token].claims_ahead
                engine.ahead.discard(attempt)
                if claims and not is_ahead:
                    world.marks.hit("bytes ahead gone")
                    self.handle(e.PushBroken(token))
                    self._pushes.pop(token).answered(AheadGone("not held here"))
                    return
                if claims:
                    world.marks.hit("bytes ahead used")
                world.at(world.workload.uniform(0.01, 0.08), self._body_arrived, token)
            case e.AnswerPush(token, is_duplicate):
                push = self._pushes.pop(token)
                if is_duplicate:
                    world.marks.hit("duplicate answered")
                else:
                    engine.bytes[push.contribution.attempt] = push.contribution
                push.answered(m.PushReply(is_duplicate))
            case e.RefusePush(token, error):
                world.marks.of_refusal(error)
                self._pushes.pop(token).answered(error)
            case e.ServePull(token, version):
                self._pulls.pop(token)((version, engine.weights[version]))
            case e.RefusePull(token, error):
                world.marks.hit("version gone")
                self._pulls.pop(token)(error)
            case e.DropParts(attempts):
                engine.drop(attempts)
            case e.KeepVersion():
                engine.keep(effect)
            case e.RetireVersions(oldest, kept):
                engine.retire(oldest, kept)
            case e.Halt(why):
                invariants.no_halt(self.index, why)
            case e.ComputeDigest():
                pass
            case _:
                self._queue.append((effect, engine.gather(effect)))
                self._run_kernel()

    def _run_kernel(self) -> None:
        """One effect at a time, in order."""
        while self._queue and not self._is_busy:
            effect, gathered = self._queue.popleft()
            if isinstance(effect, e.DiscardSum):
                self.engine.execute(effect, (), False)
                continue
            if isinstance(effect, e.StorePart):
                copies = tuple((version, self.engine.weights[version]) for version in effect.older)
                part = self.engine.state, copies
                self.world.at(self._store_seconds(), self._stored, self.life, effect.version, part)
                continue
            if isinstance(effect, e.StoreEarlier):
                earlier = self._made_again(effect.version, effect.older)
                self.world.at(self._store_seconds(), self._stored, self.life, effect.version, earlier)
                continue
            self._is_busy = True
            seconds = FOLD_SECONDS
            if isinstance(effect, e.Append | e.AppendNote | e.LogInit):
                seconds = APPEND_SECONDS
            elif isinstance(effect, e.ApplyUpdate | e.ComputeDirections):
                seconds = APPLY_SECONDS
            self.world.at(
                seconds * self.world.workload.uniform(0.2, 3.0),
                self._kernel_done,
                self.life,
                effect,
                gathered,
            )

    def _store_seconds(self) -> float:
        return STORE_SECONDS * self.world.workload.uniform(0.2, 3.0)

    def _made_again(self, version: int, older: tuple[int, ...]) -> StoredPart | None:
        """By the log alone, beside the engine; None where it does not lead there."""
        assert self.shard is not None
        job, disk = self.shard.job, self.engine.disk
        engine = Engine(self.index, self.engine.setting, self.engine.geometry, disk)
        replay = Replay(job.holds_split, job.counts_skips)
        records = [(record, place) for place, (record, _) in enumerate(disk)]
        for effect in replayed(replay, records, ()):
            engine.redo(effect, len(older))
            if effect == VersionDone(version) and all(before in engine.weights for before in older):
                self.world.marks.hit("version between checkpoints made again")
                return engine.state, tuple((before, engine.weights[before]) for before in older)
        return None

    def _stored(self, life: int, version: int, part: StoredPart | None) -> None:
        if self.life != life:
            return
        why = "the log leads to others" if part is None else ""
        if self.world.happens("lose_checkpoint"):
            why = "the store failed"
        file = "" if why or part is None else self.world.store.store_part(part)
        self.handle(e.PartStored(m.PartSaved("sim", version, file, 1, "", why)))

    def _kernel_done(
        self, life: int, effect: KernelEffect, gathered: tuple[Contribution | None, ...]
    ) -> None:
        if self.life != life:
            return
        self._is_busy = False
        loses = isinstance(effect, e.FoldSlots) and self.world.happens("lose_part")
        answer = self.engine.execute(effect, gathered, loses)
        invariants.norms_in_order(self.engine)
        if isinstance(effect, e.ApplyUpdate) and self.shard is not None:
            self._save_sometimes(effect.decision.step + 1, self.shard.newest_attempt)
        if answer is not None:
            self.handle(answer)
        if self.life == life:
            self._run_kernel()

    def _save_sometimes(self, version: int, newest: m.AttemptId) -> None:
        """As when the log has become long: what stands before the saved state before it is forgotten."""
        if self.world.workload.random() > SAVES:
            return
        disk = self.engine.disk
        assert self.shard is not None
        before = [i for i, (record, _) in enumerate(disk) if isinstance(record, StateSaved)]
        saved = [record.version for record, _ in disk if isinstance(record, StateSaved)]
        if not may_save(version, saved[-1] if saved else None, self.shard.job.open_steps):
            return
        disk.append((StateSaved(version, (), newest), self.engine.state))
        if before:
            del disk[: before[-1]]

    # --- invariants ---------------------------------------------------------------------------------

    def _check(self) -> None:
        assert self.shard is not None
        invariants.bounded_staging(self.shard)
        invariants.consistent_versions(self.world)
        while self._ledger_seen < len(self.engine.applied):
            applied = self.engine.applied[self._ledger_seen]
            self._ledger_seen += 1
            if self.shard.job.lineage != self.world.lineage:  # that history has ended
                continue
            invariants.exactly_once(self.world, self.engine, applied)
            invariants.all_shards_or_none(self.world, self.index, applied)
            invariants.finite_state(applied, self.world)
