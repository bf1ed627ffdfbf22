"""A coordinator on a desk: events by hand, effects at hand. For tests; no shard is real."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.job import Job, parse_job
from sheepfold_wire.manifest import Manifest, TensorSpec

MODEL = Manifest(
    (TensorSpec("a", (10,), "float32", "parameter"), TensorSpec("b", (10,), "float32", "parameter"))
)
SLOT_SAMPLES = 4
T = TypeVar("T")


def job_of(slots: int = 4, batch: dict[str, object] | None = None, **sections: object) -> Job:
    """A job of `slots` slots of four samples each; sections replace the defaults."""
    return parse_job(
        {
            "name": "j",
            "batch": {"samples": SLOT_SAMPLES * slots, "slot_samples": SLOT_SAMPLES, **(batch or {})},
            "data": {"samples": 1000},
            "optimizer": {"lr": {"peak": 0.1}},
            "stop": {"steps": 5},
            "leases": {"seconds": 10.0},
            **sections,
        }
    )


class Desk:
    """Drives one coordinator. Records are durable at once unless `is_durable` is set to False."""

    def __init__(
        self, job: Job | None = None, shards: int = 2, part_slots: int = 8, checkpoint_url: str = ""
    ) -> None:
        self.job = job or job_of()
        self.coordinator = Coordinator(self.job, shards, 1, "lineage", checkpoint_url)
        self.state = self.coordinator._state
        self.shards = range(shards)
        self.part_slots = part_slots
        self.now = 0.0
        self.is_durable, self.keeps_log = True, False
        self.effects: list[e.CoordinatorEffect] = []
        self._callers = 0

    # --- events -------------------------------------------------------------------------------------

    def tell(self, event: e.CoordinatorEvent) -> list[e.CoordinatorEffect]:
        effects = self.coordinator.handle(event, self.now)
        self.effects += effects
        for effect in effects:
            if isinstance(effect, e.Persist) and self.is_durable:
                self.tell(e.Persisted(effect.number))
        return effects

    def ask(self, request: e.WorkerRequest) -> e.WorkerReply | None:
        """The reply; raises the refusal; None if the call is held."""
        self._callers += 1
        self.tell(e.FromWorker(self._callers, request))
        return self.answer_of(self._callers)

    def answer_of(self, caller: int) -> e.WorkerReply | None:
        for effect in self.effects:
            if isinstance(effect, e.Refuse) and effect.caller == caller:
                raise effect.error
            if isinstance(effect, e.Answer) and effect.caller == caller:
                return effect.reply
        return None

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tell(e.Tick())

    def from_shard(self, shard: int, report: m.ShardReport) -> None:
        self.tell(e.FromShard(shard, report))

    def from_all(self, report: m.ShardReport) -> None:
        for shard in self.shards:
            self.from_shard(shard, report)

    # --- the usual course ---------------------------------------------------------------------------

    def connect(self, shard: int, is_resumed: bool = False, fingerprint: str = "eager/cpu") -> None:
        hello = m.Hello(shard + 1, shard, len(self.shards), f"shard-{shard}", fingerprint, 100)
        hello = replace(hello, keeps_log=self.keeps_log)
        self.tell(e.ShardUp(shard, shard + 1, hello, is_resumed))

    def opened(self, shard: int, version: int = -1, prepared: str = "") -> None:
        self.from_shard(shard, m.JobOpened("j", self.part_slots, version, self.state.term, prepared))

    def attach(self, worker: str, manifest: Manifest | None = MODEL, **fields: object) -> m.AttachReply:
        text = manifest.to_json() if manifest is not None else ""
        reply = self.ask(m.AttachRequest("j", worker, "host", 1, text, **fields))  # type: ignore[arg-type]
        assert isinstance(reply, m.AttachReply)
        return reply

    def open(self) -> Desk:
        """Every shard holds the job, worker `a` is attached; w0 is awaited."""
        for shard in self.shards:
            self.connect(shard)
        self.attach("a")
        for shard in self.shards:
            self.opened(shard)
        return self

    def start(self, *workers: str) -> Desk:
        """Version 0 is loaded; `a` and `workers` are attached."""
        self.open()
        lease = self.lease("a")
        assert lease is not None
        assert lease.is_init
        self.stage(lease)
        self.from_all(m.Applied("j", -1, ()))
        for worker in workers:
            self.attach(worker)
        return self

    def lease(self, worker: str, *holding: m.Lease) -> m.Lease | None:
        """A lease if there is one now."""
        return self.lease_reply(worker, *holding).lease

    def lease_reply(self, worker: str, *holding: m.Lease) -> m.LeaseReply:
        reply = self.ask(m.LeaseRequest("j", worker, tuple(lease.attempt for lease in holding)))
        assert isinstance(reply, m.LeaseReply)
        return reply

    def leased(self, worker: str, *holding: m.Lease) -> m.Lease:
        lease = self.lease(worker, *holding)
        assert lease is not None
        return lease

    def facts(self, lease: m.Lease, **fields: object) -> m.Facts:
        values = {"samples": lease.sample_count, "weight": 4.0, "base_version": lease.base_version, **fields}
        return m.Facts(**{"present": b"\x03", **values})  # type: ignore[arg-type]

    def stage(self, lease: m.Lease, *shards: int, **fields: object) -> None:
        """The contribution is staged on these shards, or on all."""
        facts = self.facts(lease, **fields)
        for shard in shards or self.shards:
            squares = (1.0,) * self.blocks(shard)
            self.from_shard(shard, m.Staged("j", lease.attempt, b"", facts, squares))

    def blocks(self, shard: int) -> int:
        """Blocks of the model that are on a shard."""
        return len(self.state.geometry.blocks_of_shard[shard]) if self.state.geometry else 0

    def refuse(self, lease: m.Lease, shard: int = 0) -> None:
        self.from_shard(shard, m.PartRefused("j", lease.attempt, "a", 3))

    def fill(self, *workers: str) -> list[m.Lease]:
        """Lease and stage until the step is closed."""
        leases: list[m.Lease] = []
        while True:
            lease = self.lease((workers or ("a",))[len(leases) % len(workers or ("a",))])
            if lease is None:
                return leases
            leases.append(lease)
            self.stage(lease)
            self.folded()

    def folded(self) -> None:
        for step in list(self.state.steps.values()):
            self.from_all(m.Folded("j", step.step, step.admitted, True))

    def prepare(self, step: int, is_finite: bool = True, max_abs: float = 1.0, squares: float = 1.0) -> None:
        close = self.sent(m.Close)[-1]
        for shard in self.shards:
            each = (squares,) * self.blocks(shard)
            report = m.Prepared("j", step, close.map_digest, is_finite, max_abs, each)
            self.from_shard(shard, report)

    def finish(self, step: int) -> None:
        """Prepared and applied on every shard."""
        self.prepare(step)
        self.from_all(m.Applied("j", step, ()))

    # --- what was said ------------------------------------------------------------------------------

    def sent(self, kind: type[T], shard: int = 0) -> list[T]:
        """Commands of this kind to a shard, oldest first."""
        return [
            f.command
            for f in self.effects
            if isinstance(f, e.ToShard) and f.shard == shard and isinstance(f.command, kind)
        ]

    def ended(self, shard: int = 0) -> list[tuple[AttemptId, str]]:
        return [(end.attempts[0], end.reason) for end in self.sent(m.EndAttempts, shard)]

    @property
    def reports(self) -> list[m.StepReport]:
        return [f.report for f in self.effects if isinstance(f, e.Publish)]

    @property
    def notes(self) -> str:
        return "\n".join(f.text for f in self.effects if isinstance(f, e.Note))
