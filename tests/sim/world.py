"""A seeded world: the real coordinator, shards and sessions on a heap of (time, sequence, event), no sockets.

Coordinator and shards talk over ordered streams that break and come back; workers' calls are lost, repeated,
delayed and reordered; workers die, stop and go. Everything random comes from the seed.
"""

from __future__ import annotations

import gc
import heapq
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from tests.sim import invariants
from tests.sim.clocks import Clock
from tests.sim.engine import Applied, Contribution
from tests.sim.hosts import Answered, ShardHost
from tests.sim.links import Links, Stream
from tests.sim.marks import Marks
from tests.sim.scenario import CALM, Faults, Scenario, Setting, draw, job_of, undisturbed
from tests.sim.store import SimStore
from tests.sim.strikes import Strikes
from tests.sim.worker import SimWorker

import sheepfold_wire.messages as m
from sheepfold.session import Session
from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.past import books_at
from sheepfold_server.core.records import Books, CheckpointKept, CoordinatorRecord
from sheepfold_server.core.remembering import identity
from sheepfold_server.core.reports import waiting_for
from sheepfold_server.core.shard import Shard
from sheepfold_server.core.state import JobState, Life
from sheepfold_server.core.steps import Decided, Phase
from sheepfold_wire.errors import WorkerUnknown
from sheepfold_wire.ids import AttemptId

TICK_SECONDS = 0.25
COMPUTE_SECONDS = 0.15
CHAOS_SECONDS = 0.2
CLOSED_BY_KILL = 0.8
"""Of killed workers: a machine that loses its power closes no connection."""
PERSIST_SECONDS = 0.06
INDEX_SECONDS = 0.1
EVENTS_MAX = 60_000
RECOVERY_SECONDS = 40.0
RETRY_SECONDS = 0.5
"""After a checkpoint that failed; the product's half minute is longer than most of these jobs."""
STEP_SECONDS_MAX = 40.0
"""Generous: a step may wait for a few leases to expire, one after the other."""


@dataclass(frozen=True)
class Cores:
    """The classes under test; an ablation replaces one of them."""

    coordinator: type[Coordinator] = Coordinator
    shard: type[Shard] = Shard
    host: type[ShardHost] = ShardHost
    session: type[Session] = Session
    stream: type[Stream] = Stream
    store: type[SimStore] = SimStore


class World:
    def __init__(
        self, scenario: Scenario, cores: Cores | None = None, keep: frozenset[str] | None = None
    ) -> None:
        """`keep`: names of the only faults to strike; None for all that the seed draws."""
        self.cores = cores = cores or Cores()
        seed = scenario.seed
        self.scenario = scenario
        self.faults = scenario.faults
        self.schedule = random.Random(f"{seed} schedule")
        self.strikes = Strikes(seed, _chances(scenario.faults), keep)
        self.workload = random.Random(f"{seed} workload")
        self.job = job_of(scenario.setting)
        self.is_asynchronous = self.job.batch.is_asynchronous
        self.now = 0.0
        self.events = 0
        self.marks = Marks()
        self.lines: list[str] | None = None
        """The trace, if somebody asked for it."""
        self.contributions: dict[AttemptId, Contribution] = {}
        self.ledger: dict[int, Applied] = {}
        self.steps_of_sequence: dict[int, tuple[int, int]] = {}
        self.decided = -1
        self.published = 0
        self.committed: set[AttemptId] = set()
        """Attempts that published reports name as part of an applied step."""
        self.workers: dict[int, SimWorker] = {}
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = 0
        self._nan_left: dict[int, int] = {}
        self._callers: dict[int, Answered] = {}
        self._beats: dict[int, str] = {}
        """Heartbeats that the coordinator holds, and whose they are."""
        self._answered: set[int] = set()
        self._last_persisted = 0.0
        self._desk_free_at = 0.0
        self._storing: list[e.StoreIndex] = []
        self.term = 1
        self.lineage = "lineage-0"
        self.store = cores.store()
        self.links = Links(self)
        self.log: list[CoordinatorRecord] = []
        """The coordinator's: what is durable."""
        self.is_coordinator_up = True
        self.process = 0
        """Of the coordinator: how many died before it."""
        self.is_first_publish = False
        """Whether nothing was published since the coordinator was started anew."""
        self.clocks = random.Random(f"{seed} clocks")
        self.clock = self.new_clock()
        """The coordinator's."""
        self._incarnations = 0
        self.coordinator = self._new_coordinator()
        self.state: JobState = self.coordinator._state
        self.shards = [
            cores.host(self, index, cores.shard, cores.stream()) for index in range(scenario.shards)
        ]

    def _new_coordinator(self) -> Coordinator:
        url = "sim:" if self.scenario.keeps_checkpoints else ""
        made = self.cores.coordinator(self.job, self.scenario.shards, self.term, self.lineage, url)
        made._checkpointing.retry_seconds = RETRY_SECONDS
        return made

    # --- time ---------------------------------------------------------------------------------------

    def new_clock(self) -> Clock:
        """Of a process that begins."""
        return Clock.drawn(self.clocks, self.scenario.clock_drift)

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def at(self, delay: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._heap, (self.now + delay, self.number(), act, arguments))

    def trace(self, who: str, event: object) -> None:
        if self.lines is not None:
            self.lines.append(f"{self.now:9.4f} {who:8} {event}")

    def run(self) -> None:
        """Faults on for a while, then off; raises Violation. Ends with the job."""
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            self._start()
            limit = self.scenario.fault_seconds + RECOVERY_SECONDS + STEP_SECONDS_MAX * self.job.stop.steps
            for self.events in range(EVENTS_MAX):
                if not self._heap or self.state.life is Life.ENDED:
                    break
                self.now, _, act, arguments = heapq.heappop(self._heap)
                act(*arguments)
                invariants.liveness(self, limit)
            if self.state.life is not Life.ENDED:
                raise invariants.Violation(
                    "liveness", f"no end after {EVENTS_MAX} events; {self.waiting_for()}"
                )
            for host in self.shards:
                host.recover()
            invariants.same_state_everywhere(self)
        finally:
            if was_enabled:
                gc.enable()

    def _create(self) -> list[e.CoordinatorEffect]:
        request = m.CreateJobRequest("1", self.job.to_json())
        return self.coordinator.handle(e.FromWorker(self._admin(), request), self.clock.read(self.now))

    def next_incarnation(self) -> int:
        self._incarnations += 1
        return self._incarnations

    def _start(self) -> None:
        for effect in self._create():
            if isinstance(effect, e.Persist):
                self.log.append(effect.record)
        for host in self.shards:
            self.links.up(host, is_resumed=False)
        for _ in range(self.scenario.workers):
            self._add_worker()
        self.at(TICK_SECONDS, self._tick)
        if self.faults != CALM:
            self.at(CHAOS_SECONDS, self._chaos)
            self.at(self.scenario.fault_seconds, self._faults_end)

    def _tick(self) -> None:
        self.at(TICK_SECONDS, self._tick)
        self.tell_coordinator(e.Tick())
        if self.state.life is Life.PAUSED:
            self.marks.hit("job paused")
            self.tell_coordinator(e.FromWorker(self._admin(), m.ControlRequest("sim", "resume", "operator")))

    def _admin(self) -> int:
        caller = self.number()
        self._callers[caller] = lambda answer: None
        return caller

    def waiting_for(self) -> str:
        return f"{self.state.life.value}, waiting for {waiting_for(self.state)}"

    def compute_seconds(self, worker: SimWorker, lease: m.Lease) -> float:
        usual = COMPUTE_SECONDS * worker.pace * self.workload.uniform(0.5, 1.5)
        return 20.0 * usual if self.happens("straggle") else usual

    # --- faults -------------------------------------------------------------------------------------

    def happens(self, fault: str) -> bool:
        """Whether this fault strikes now."""
        struck = self.strikes.happens(fault)
        self.marks.faults += struck
        return struck

    def breaks(self, sequence: int) -> bool:
        """Whether this attempt at a slot comes out non-finite: too seldom for a step to be skipped for it."""
        if not self.happens("nan"):
            return False
        left = self._nan_left.setdefault(sequence, 5 if self.scenario.setting.refused == "pause" else 2)
        self._nan_left[sequence] = max(0, left - 1)
        return left > 0

    def _chaos(self) -> None:
        if self.faults == CALM:
            return
        for worker in [w for w in self.workers.values() if w.is_alive and not w.is_idle]:
            if self.happens("kill_rate"):
                worker.is_alive = False
                self.at(self.strikes.chance.uniform(0.1, 2.0), self._add_worker)
                if self.strikes.chance.random() < CLOSED_BY_KILL:
                    self.at(self.strikes.chance.uniform(0.0, 0.3), self._connection_breaks, worker.name)
            elif self.happens("break_call_rate"):
                self._connection_breaks(worker.name)
            elif self.happens("leave_rate"):
                worker.leave()
                self.at(self.strikes.chance.uniform(0.1, 2.0), self._add_worker)
            elif self.happens("stop_rate"):
                worker.stopped_until = self.now + self.strikes.chance.uniform(0.5, 8.0)
        for host in self.shards:
            if host.stream.is_up and self.happens("break_link_rate"):
                self.links.break_off(host, self.strikes.chance)
            elif host.stream.is_up and not host.stream.stuck and self.happens("half_open_rate"):
                self.links.half_open(host)
            elif self.happens("crash_shard_rate"):
                host.crash()
        if self.is_coordinator_up and self.happens("crash_coordinator_rate"):
            self._coordinator_crash()
        if self.happens("rewind_rate"):
            self._rewind()
        if self.happens("save_rate"):
            self.tell_coordinator(e.FromWorker(self._admin(), m.CheckpointRequest("sim", "operator")))
        self.at(CHAOS_SECONDS, self._chaos)

    def _connection_breaks(self, worker: str) -> None:
        for caller in [caller for caller, of in self._beats.items() if of == worker]:
            if self._beats.pop(caller, None):  # the coordinator may crash meanwhile
                del self._callers[caller]
                self.tell_coordinator(e.CallLost(caller))

    def has_checkpoint(self) -> bool:
        return bool(self._kept())

    def _kept(self) -> list[m.CheckpointRef]:
        """What the present history may go back to."""
        older = [(ref.lineage, ref.version) for ref in self.state.checkpoints.ancestry]
        return self.store.of(((self.lineage, None), *older))

    def _rewind(self) -> None:
        """An operator wants some version that is kept, or that the logs may lead to."""
        if self.has_checkpoint():
            wanted = self.strikes.chance.randint(0, max(0, self.state.version))
            request = m.RewindRequest(str(self.number()), "sim", wanted)
            self.tell_coordinator(e.FromWorker(self._admin(), request))

    def _faults_end(self) -> None:
        self.faults = CALM
        self.strikes.end()
        self.store.damaged.clear()  # brought back from a copy, as the error says
        if not any(worker.is_alive for worker in self.workers.values()):
            self._add_worker()

    def _add_worker(self) -> None:
        number = len(self.workers)
        self.workers[number] = SimWorker(self, number)
        self.workers[number].start()

    def is_alive(self, number: int) -> bool:
        return self.workers[number].is_alive

    # --- death and rebirth of the coordinator -------------------------------------------------------

    def _coordinator_crash(self) -> None:
        """kill -9: what is not in its log is gone. Another one reads the log a moment later."""
        self.marks.hit("coordinator killed")
        if any(step.phase in (Phase.DECIDED, Phase.APPLYING) for step in self.state.steps.values()):
            self.marks.hit("coordinator killed with a step decided")
        self.is_coordinator_up = False
        self.process += 1
        self.term += 1
        for effect in self._storing:  # it may have stored them, and never tell
            if self.strikes.chance.random() < 0.5:
                self._store_index(effect)
        self._storing.clear()
        for host in self.shards:
            self.links.cut(host)
        chance = self.strikes.chance
        self.at(chance.uniform(0.05, 1.5), self._coordinator_begin, chance)

    def _coordinator_begin(self, chance: random.Random) -> None:
        self.is_coordinator_up, self.is_first_publish = True, True
        before, self.clock = self.clock, self.new_clock()
        if self.clock.read(self.now) < before.read(self.now):
            self.marks.hit("clock of the coordinator went back")
        self._begin_coordinator(self.log)
        self._callers.clear()
        self._beats.clear()
        for host in self.shards:
            self.at(chance.uniform(0.0, 0.5), self.links.back, host, host.stream.epoch, True)

    def _begin_coordinator(self, records: list[CoordinatorRecord]) -> None:
        invariants.lineage_is_durable(self, identity(records)[1])
        self.coordinator = self._new_coordinator()
        self.coordinator.remember(records, self.clock.read(self.now))
        self.state = self.coordinator._state

    def _went_back(self, books: Books) -> None:
        """Durable: the history up to now has ended, and what it did from that version on is undone."""
        self.marks.hit("went back to a checkpoint")
        version = books.ledger.version
        if len(books.ancestry) > 1:
            self.marks.hit("went back from a lineage that went back")
        self.lineage = books.lineage
        self.decided, self.published = version - 1, version
        self.ledger = {step: applied for step, applied in self.ledger.items() if step < version}
        self.steps_of_sequence = {
            sequence: home for sequence, home in self.steps_of_sequence.items() if home[0] < version
        }
        for host in self.shards:
            host.has_lost = False

    def _begin_again(self, books: Books) -> None:
        """Another core takes the place of the one that went back; callers of the old one are told."""
        self.term += 1
        self._begin_coordinator([books])
        for caller in list(self._callers):
            invariants.answered_once(self._answered, caller)
            self._take_caller(caller)(WorkerUnknown("attach again"))
        for host in self.shards:
            if host.stream.is_up:
                self.at(0.0, self.links.up_anew, host, host.stream.epoch)

    def latency(self) -> float:
        return self.schedule.uniform(0.001, 0.03)

    # --- the coordinator ----------------------------------------------------------------------------

    def tell_coordinator(self, event: e.CoordinatorEvent) -> None:
        if not self.is_coordinator_up:
            return
        self.trace("coord", event)
        term, effects = self.term, self.coordinator.handle(event, self.clock.read(self.now))
        self.marks.of_coordinator(event, self.coordinator)
        for effect in effects:
            if self.happens("crash"):
                self._coordinator_crash()
            if self.term != term:
                return
            self._carry_out(effect)
        invariants.conservation(self.state)
        if len({host.shard.version for host in self.shards if host.shard is not None}) > 1:
            self.marks.hit("shards differ in version")

    def _carry_out(self, effect: e.CoordinatorEffect) -> None:
        match effect:
            case e.Answer(caller, reply):
                self.marks.of_answer(reply)
                if isinstance(reply, m.LeaseReply | m.HeartbeatReply):
                    invariants.told_the_truth(self, reply.ends)
                invariants.answered_once(self._answered, caller)
                self._take_caller(caller)(reply)
            case e.Refuse(caller, error):
                self.marks.of_answer(error)
                invariants.answered_once(self._answered, caller)
                self._take_caller(caller)(error)
            case e.ToShard(shard, command):
                self.trace("coord", effect)
                self.marks.of_command(shard, command, self.coordinator)
                self.links.command(self.shards[shard], command)
            case e.Persist(number, record):
                self._last_persisted = max(
                    self._last_persisted, self.now + PERSIST_SECONDS * self.schedule.random()
                )
                self.at(self._last_persisted - self.now, self._persisted, self.term, number, record)
            case e.Publish(report):
                invariants.published_in_order(self, report)
            case e.StoreIndex():
                self._storing.append(effect)
                self._at_desk(self._index_stored, effect)
            case e.FindCheckpoint():
                self._at_desk(self._looked, effect)
            case e.FindBooks(version):
                self._at_desk(self._looked_in_log, list(self.log), version)
            case e.BeginAgain(books):
                self._begin_again(books)

    def _take_caller(self, caller: int) -> Answered:
        self._beats.pop(caller, None)
        return self._callers.pop(caller)

    def _at_desk(self, act: Callable[..., None], *arguments: Any) -> None:
        """One after the other, as in the desk's thread."""
        seconds = INDEX_SECONDS * self.workload.uniform(0.2, 3.0)
        self._desk_free_at = max(self.now, self._desk_free_at) + seconds
        self.at(self._desk_free_at - self.now, act, self.term, *arguments)

    def _index_stored(self, term: int, effect: e.StoreIndex) -> None:
        if effect not in self._storing:  # its process died
            return
        self._storing.remove(effect)
        why = "the store failed" if self.happens("lose_checkpoint") else ""
        if not why:
            self._store_index(effect)
        self._tell_of(term, e.IndexStored(effect.books.ledger.version, why))

    def _store_index(self, effect: e.StoreIndex) -> None:
        self.marks.hit("checkpoint kept")
        self.store.store_index(effect)

    def _looked(self, term: int, effect: e.FindCheckpoint) -> None:
        for ref in self.store.looked_at(effect):
            if self.happens("damage_part") and ref not in self.state.checkpoints.ancestry[-1:]:
                # The one that this lineage began with may be read by shards until it has another: who damages
                # that stops the job until a person brings the file back.
                self.store.damaged.add(self.strikes.chance.choice(self.store.kept[ref].files))
        found = self.store.find(effect, f"lineage-{self.number()}")
        if found.passed_over:
            self.marks.hit("damaged checkpoint passed over")
        self._tell_of(term, found)

    def _looked_in_log(self, term: int, log: list[CoordinatorRecord], version: int) -> None:
        self.marks.hit("version between checkpoints wanted")
        found = books_at(log, version)
        if found.books is not None:
            invariants.same_books_from_further_back(log, found.books)
        self._tell_of(term, found)

    def _tell_of(self, term: int, event: e.CoordinatorEvent) -> None:
        if term == self.term:
            self.tell_coordinator(event)

    def _persisted(self, term: int, number: int, record: CoordinatorRecord) -> None:
        if term != self.term:  # its process died before the record was written
            return
        self.log.append(record)
        if isinstance(record, CheckpointKept):
            invariants.checkpoint_is_whole(self, record.kept)
        if isinstance(record, Decided):
            self.decided = record.commit.step
        if isinstance(record, Books) and record.why:
            self._went_back(record)
        elif isinstance(record, Books) and not record.ancestry and record.ledger.version > 0:
            invariants.books_are_the_log(self._new_coordinator(), self.log, record)
        self.tell_coordinator(e.Persisted(number))

    # --- calls of workers ---------------------------------------------------------------------------

    def _send(self, act: Callable[..., None], *arguments: Any) -> None:
        """One message of a call: lost, late, or there twice."""
        if self.happens("lose_request"):
            return
        self.at(self._call_latency(), act, *arguments)
        if self.happens("duplicate"):
            later = self.strikes.chance.uniform(0.0, 1.0)
            self.at(self._call_latency() + later, act, *arguments)

    def _call_latency(self) -> float:
        return self.latency() + (self.strikes.chance.uniform(0.1, 2.5) if self.happens("delay") else 0.0)

    def _reply(self, answered: Answered) -> Answered:
        def send(answer: object) -> None:
            if not self.happens("lose_reply"):
                self.at(self._call_latency(), answered, answer)

        return send

    def call_coordinator(self, request: e.WorkerRequest, answered: Answered) -> None:
        self._send(self._request_arrives, request, self._reply(answered))

    def _request_arrives(self, request: e.WorkerRequest, reply: Answered) -> None:
        caller = self.number()
        if not self.is_coordinator_up:
            return
        self._callers[caller] = reply
        if isinstance(request, m.HeartbeatRequest):
            self._beats[caller] = request.worker
        self.tell_coordinator(e.FromWorker(caller, request))

    def call_shard_pull(self, request: m.PullRequest, answered: Answered) -> None:
        self._send(self.shards[request.shard].pull, request, self._reply(answered))

    def call_shard_push(
        self, header: m.PushHeader, contribution: Contribution, sender: int, answered: Answered
    ) -> None:
        self._send(self.shards[header.shard].push, header, contribution, sender, self._reply(answered))


def _chances(faults: Faults) -> dict[str, float]:
    """Of each kind of fault, whenever it is asked for."""
    return {
        kind: rate * (CHAOS_SECONDS if kind.endswith("_rate") else 1.0)
        for kind, rate in asdict(faults).items()
    }


@cache
def undisturbed_state(setting: Setting) -> int:
    """The state every disturbed run of the same job must end in."""
    world = World(undisturbed(setting))
    world.run()
    return world.shards[0].engine.state


def check(world: World) -> None:
    """Run it to its end; raises Violation."""
    world.run()
    if world.scenario.setting.is_reproducible:
        invariants.same_history(world, undisturbed_state(world.scenario.setting))


def simulate(seed: int, cores: Cores | None = None) -> Marks:
    """Run one seed; raises Violation. Returns the rare states it reached."""
    world = World(draw(seed), cores)
    check(world)
    return world.marks
