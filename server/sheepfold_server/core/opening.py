"""How a job comes to be: its manifest, its shards, and what a shard says when its link is up again."""

from __future__ import annotations

import sheepfold_wire.messages as m
from sheepfold_server.core.events import ShardUp, ToShard
from sheepfold_server.core.kernels import choose_kernel
from sheepfold_server.core.quotas import SLOTS_MIN
from sheepfold_server.core.records import JobCreated, KernelChosen, ModelGiven
from sheepfold_server.core.recovery import Recovery
from sheepfold_server.core.rewinding import Rewinding
from sheepfold_server.core.state import Geometry, JobState, Life
from sheepfold_server.core.steps import Phase
from sheepfold_wire import job as jobs
from sheepfold_wire import manifest as manifests
from sheepfold_wire.errors import (
    BadConfig,
    ConfigMismatch,
    ManifestMismatch,
    PreconditionError,
    WindowTooSmall,
)
from sheepfold_wire.manifest import Manifest, ManifestError
from sheepfold_wire.optimizer import with_slices
from sheepfold_wire.schedule import check_plan


class Opening:
    """Brings a job from declared to initialising, and a shard from its link to ready."""

    def __init__(self, state: JobState, recovery: Recovery, rewinding: Rewinding) -> None:
        self._s = state
        self._recovery = recovery
        self._rewinding = rewinding
        self.is_created = False

    # --- the job ------------------------------------------------------------------------------------

    def create(self, request: m.CreateJobRequest) -> m.CreateJobReply:
        """The same job again is fine; raises ConfigMismatch or ManifestMismatch for another."""
        state = self._s
        asked = jobs.job_from_json(request.config_json)
        difference = jobs.first_difference(state.config.created, asked)
        if difference:
            raise ConfigMismatch(
                f"job {state.name} exists with another configuration: {difference}; give the same, none, or "
                "another name"
            )
        if asked.durability.level == "checkpoint" and not state.checkpoints.url:
            raise BadConfig(
                'durability.level = "checkpoint", and this coordinator keeps none: start it with '
                '--checkpoints URL, or give "wal"'
            )
        if not self.is_created:
            check_plan(asked)
        is_new, self.is_created = not self.is_created, True
        if is_new:
            config, shards = state.job.to_json(), len(state.shards)
            state.persist(JobCreated(config, state.lineage, request.request_id, shards))
        if request.manifest_json:
            self.take_manifest(request.manifest_json)
        return m.CreateJobReply(state.name, is_new)

    def take_manifest(self, text: str) -> None:
        """The first manifest makes the job; any other must equal it."""
        state = self._s
        try:
            manifest = Manifest.from_json(text)
        except ManifestError as error:
            raise BadConfig(str(error)) from None
        manifest = with_slices(manifest, state.job.optimizer.slices)
        if state.geometry is not None:
            difference = manifests.first_difference(state.geometry.manifest, manifest)
            if difference:
                raise ManifestMismatch(f"job {state.name} was created with another model: {difference}")
            return
        if manifest.statistics and state.job.statistics.policy == "refuse":
            names = ", ".join(manifest.tensors[i].name for i in manifest.statistics[:5])
            raise PreconditionError(
                f"the model has {len(manifest.statistics)} buffers ({names}) and the job no policy for them; "
                'set statistics.policy = "mean" in the job file (weighted mean; integers by maximum)'
            )
        if not manifest.parameters:
            raise PreconditionError(
                "the model has no parameters that require a gradient; there is nothing to train"
            )
        state.quotas.check_parameters(state.name, manifest.parameter_elements)
        state.geometry = Geometry.of(manifest, len(state.shards), state.job)
        state.persist(ModelGiven(text))
        if state.life is Life.DECLARED:
            state.life = Life.OPENING
        self._open_everywhere()

    # --- shards -------------------------------------------------------------------------------------

    def on_shard_up(self, event: ShardUp) -> None:
        state = self._s
        link = state.shards[event.shard]
        if link.hello is not None:
            came = "is back" if event.is_resumed else f"was started anew, incarnation {event.incarnation}"
            state.event("shard", f"shard {event.shard} {came}")
        self._rewinding.found(event.shard)
        link.incarnation, link.hello = event.incarnation, event.hello
        link.is_up, link.is_ready = True, False
        if state.geometry is None:
            return
        if not state.kernel:
            self._open_everywhere()
        elif state.kernel in event.hello.kernels:
            self._open_on(event.shard)
        else:
            state.pause(
                f"shard {event.shard} came back without the job's kernel, {state.kernel}: "
                f"{event.hello.kernel_note}"
            )

    def on_shard_down(self, shard: int) -> None:
        state = self._s
        state.shards[shard].is_up = state.shards[shard].is_ready = False
        state.event("shard", f"the link to shard {shard} is down")

    def _open_everywhere(self) -> None:
        """The kernel is the job's, not a shard's: it is chosen when all of them have said what they offer."""
        state = self._s
        hellos = [link.hello for link in state.shards if link.is_up and link.hello is not None]
        if len(hellos) < len(state.shards):
            return
        assert state.geometry is not None
        manifest = state.geometry.manifest
        parameters = sum(manifest.tensors[index].elements for index in manifest.parameters)
        try:
            state.kernel, told = choose_kernel(state.job.numerics.kernel, hellos, parameters)
        except PreconditionError as error:
            state.spoil(error)
            return
        state.persist(KernelChosen(state.kernel))
        if told:
            state.note(f"job {state.name}: {told}")
        for shard in range(len(state.shards)):
            self._open_on(shard)

    def _open_on(self, shard: int) -> None:
        """Sent before the shard is ready: its answer makes it so."""
        self._s.outbox.append(ToShard(shard, self.command()))

    def command(self) -> m.OpenJob:
        """What each shard is told of the job; only once its model is known."""
        state = self._s
        assert state.geometry is not None
        manifest, config = state.geometry.manifest.to_json(), state.resolved_json
        found = state.checkpoints
        # A shard that has nothing of this lineage can follow only from the version the lineage began with.
        begins = bool(found.ancestry) and state.version == found.ancestry[-1].version
        restore = found.ancestry[-1] if begins else None
        return m.OpenJob(
            state.name, state.lineage, state.term, len(state.shards), manifest, config, found.url, restore
        )

    def on_opened(self, shard: int, report: m.JobOpened) -> None:
        state = self._s
        link = state.shards[shard]
        if report.term != state.term:
            return  # of an earlier lineage
        was_open = link.part_slots > 0
        lost = self._what_is_lost(report)
        link.part_slots, link.is_ready = report.part_slots, not lost
        if state.pins.versions:
            state.tell_pins(shard)
        if report.part_slots < SLOTS_MIN * state.quotas.sharing:
            budget, sharing = link.hello.staging_bytes if link.hello else 0, state.quotas.sharing
            among = "" if sharing == 1 else f", to be shared by {sharing} jobs"
            why = (
                f"the staging budget of shard {shard} ({budget} bytes{among}) holds {report.part_slots} "
                f"parts of job {state.name}, {SLOTS_MIN * sharing} are needed; raise --staging-bytes or add "
                "shards"
            )
            state.spoil(WindowTooSmall(why))
        elif lost:
            self._rewinding.lost(shard, f"shard {shard} came back with {lost}: its state is lost")
        else:
            self._rewinding.found(shard)
            if state.life is Life.OPENING:
                state.life = state.waking_life()
            if was_open or state.is_recovered:
                self._recovery.resume(shard)
            if state.is_recovered:
                self._recovery.go_on()

    def _what_is_lost(self, report: m.JobOpened) -> str:
        """What the shard lacks of what is decided; "" if it can follow."""
        state = self._s
        if report.version < state.version:
            return f"version {report.version}, version {state.version} is committed"
        step = state.steps.get(report.version)
        if step is None or step.phase is not Phase.APPLYING or step.decision is None:
            return ""
        if step.decision.is_skip or step.decision.map_digest == report.prepared:
            return ""
        return (
            f"version {report.version} and not the mean gradient of step {report.version}, which is committed"
        )
