"""What dashboards and terminals are told: one report per step, one status at any moment."""

from __future__ import annotations

import math

import sheepfold_wire.messages as m
from sheepfold_server.core.accounts import skipped_samples
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.kernels import fingerprint
from sheepfold_server.core.metrics import mean_metrics
from sheepfold_server.core.quotas import said
from sheepfold_server.core.slot_norms import SlotNorms, slot_norms
from sheepfold_server.core.state import JobState, Life
from sheepfold_server.core.steps import OpenStep
from sheepfold_wire.codecs import Codec
from sheepfold_wire.ids import NOTHING_LOADED
from sheepfold_wire.sums import add_in_order


def step_report(state: JobState, step: OpenStep) -> m.StepReport:
    """The report of a step whose last APPLIED is in."""
    assert step.decision is not None
    winners = step.winners()
    facts = [a.facts for a in winners if a.facts is not None]
    weight = sum(f.weight for f in facts)
    losses = [(f.loss, f.weight) for f in facts if f.loss is not None]
    loss_weight = sum(w for _, w in losses)
    applied = step.applied.values()
    norms = _slot_norms(state, step, winners)
    return m.StepReport(
        job=state.name,
        step=step.step,
        version=step.step + 1,
        is_skip=step.decision.is_skip,
        skip_reason=step.skip_reason,
        learning_rate=step.decision.learning_rate,
        clip_scale=step.decision.clip_scale,
        gradient_norm=step.gradient_norm,
        samples=sum(f.samples for f in facts),
        weight=weight,
        wait_seconds=step.closed_at - step.opened_at,
        prepare_seconds=max(0.0, step.decided_at - step.closed_at),
        apply_seconds=state.now - step.decided_at,
        slices=_slice_facts(state, step, norms),
        slots=_slot_reports(state, step, winners, norms),
        counts=state.attempts.counts(),
        bytes_in=sum(report.bytes_in for report in applied),
        bytes_out=sum(report.bytes_out for report in applied),
        loss=sum(value * w for value, w in losses) / loss_weight if loss_weight > 0 else None,
        metrics=mean_metrics(facts),
        lineage=state.lineage,
        loss_scale=step.loss_scale,
        slot_gradient_norm=norms.root_mean_square,
        commit_seconds=max(0.0, step.durable_at - step.decided_at),
        shards=tuple(
            m.ShardStep(shard, r.fold_seconds, r.apply_seconds, r.bytes_in, r.bytes_out)
            for shard, r in sorted(step.applied.items())
        ),
    )


def _slot_norms(state: JobState, step: OpenStep, winners: list[Attempt]) -> SlotNorms:
    geometry = state.geometry
    if geometry is None or not step.is_full():
        return SlotNorms()
    frozen = geometry.blocks_of(geometry.frozen_tensors(state.config.at(step.step)))
    return slot_norms(winners, geometry.blocks_of_shard, geometry.slice_of_block, frozen)


def _cosines(state: JobState, step: OpenStep, norms: SlotNorms) -> list[float]:
    """Between each slot's gradient and the mean; empty where the shards did not compare them.

    Frozen tensors are in the products but in no norm, so that nothing is told where there are some.
    """
    products = [report.slot_products for _, report in sorted(step.applied.items())]
    count = len(norms.of_slot)
    if not count or step.gradient_norm <= 0 or state.config.at(step.step).frozen:
        return []
    if any(len(of_shard) != count for of_shard in products):
        return []
    whole = [sum(of_slot) for of_slot in zip(*products, strict=True)]
    pairs = zip(whole, norms.of_slot, strict=True)
    bounded = ((product, norm * step.gradient_norm) for product, norm in pairs)
    return [max(-1.0, min(1.0, product / most)) if most > 0 else 0.0 for product, most in bounded]


def _slot_reports(
    state: JobState, step: OpenStep, winners: list[Attempt], norms: SlotNorms
) -> tuple[m.SlotReport, ...]:
    reports = []
    cosines = _cosines(state, step, norms)
    for index, attempt in enumerate(winners):
        if attempt.facts is None:
            continue
        worker = state.workers.get(attempt.worker)
        reports.append(
            m.SlotReport(
                slot=index,
                worker=attempt.worker,
                samples=attempt.facts.samples,
                weight=attempt.facts.weight,
                attempts=step.slots[index].attempts,
                base_version=attempt.facts.base_version,
                loss=attempt.facts.loss,
                attempt=attempt.id,
                sample_start=_sample_start(state, step, index),
                files=() if state.files is None else state.files.ranges(attempt.id),
                host="" if worker is None else worker.request.host,
                gradient_norm=norms.of_slot[index] if norms.of_slot else 0.0,
                cosine=cosines[index] if cosines else None,
            )
        )
    return tuple(reports)


def _sample_start(state: JobState, step: OpenStep, slot: int) -> int:
    """Place of a slot in the sample stream; 0 where it has none."""
    place = (step.step, slot) if step.sequence is None else (step.sequence, 0)
    return state.batch.slot_range(*place)[0] if state.job.data.mode == "indexed" else 0


def _slice_facts(state: JobState, step: OpenStep, norms: SlotNorms) -> tuple[m.SliceFacts, ...]:
    """Norms and ratio of each slice, in manifest order, as its shard reported them."""
    geometry = state.geometry
    if geometry is None:
        return ()
    squares: dict[int, list[float]] = {}
    for block, value in enumerate(step.block_squares):
        squares.setdefault(geometry.slice_of_block[block], []).append(value)
    slices = sorted((s for report in step.applied.values() for s in report.slices), key=lambda s: s.slice)
    return tuple(
        m.SliceFacts(
            slice=s.slice,
            name=geometry.manifest.slices[s.slice].name,
            weight_norm=s.weight_norm,
            update_norm=s.update_norm,
            gradient_norm=math.sqrt(add_in_order(squares.get(s.slice, ()))),
            trust_ratio=s.trust_ratio,
            clamp=s.clamp,
            slot_gradient_norm=norms.of_slice.get(s.slice, 0.0),
        )
        for s in slices
    )


def rates(state: JobState) -> tuple[float, float]:
    """(steps per second, samples per second) over the newest steps until now; 0 before two are known."""
    if len(state.last_commits) < 2:
        return 0.0, 0.0
    first, last = state.last_commits[0], state.last_commits[-1]
    seconds = (last[0] if state.life is Life.ENDED else state.now) - first[0]
    if seconds <= 0:
        return 0.0, 0.0
    return (len(state.last_commits) - 1) / seconds, (last[1] - first[1]) / seconds


def waiting_for(state: JobState) -> str:
    """What the lowest open step waits for, with names and numbers; one sentence."""
    missing = [str(i) for i, shard in enumerate(state.shards) if not shard.is_up]
    if missing:
        return f"shard {', '.join(missing)} to connect"
    step = state.steps.get(state.version)
    if step is None:
        closed = [str(i) for i, shard in enumerate(state.shards) if not shard.part_slots]
        if state.life is Life.OPENING and closed:
            return f"shard {', '.join(closed)} to open the job"
        return state.why or "a worker to attach"
    if step.is_full():
        unapplied = [str(i) for i in range(len(state.shards)) if i not in step.applied]
        return f"shard {', '.join(unapplied)} to finish step {step.step} ({step.phase.name.lower()})"
    if state.awaits_checkpoint():
        return f"version {state.version} to be kept: without it nothing that follows could be"
    if state.paced_seconds > 0:
        return f"{state.paced_seconds:.1f} s, for the quota {said('steps_per_second', state.quotas.of)}"
    lowest = next(
        (i for i in range(step.admitted, len(step.slots)) if step.slots[i].winner is None), step.admitted
    )
    live = state.attempts.of_slot(step.step, lowest)
    if not live:
        return f"a worker to take slot {lowest} of step {step.step}"
    attempt = live[0]
    return (
        f"slot {lowest} of step {step.step}, leased to {attempt.worker} "
        f"{state.now - attempt.leased_at:.1f} s ago; its lease ends in "
        f"{max(0.0, attempt.deadline - state.now):.1f} s unless it shows progress{_room_is_short(state)}"
    )


def _room_is_short(state: JobState) -> str:
    """What keeps other slots from being leased meanwhile, if it is the room that shards have; "" if not."""
    is_free = any(
        True
        for step in state.steps.values()
        if step.is_wanted()
        for _ in state.attempts.free_slots(step.step, len(step.slots))
    )
    if not is_free or state.window() - state.unfolded() > 1:
        return ""
    return f"; {short_room(state)}"


def short_room(state: JobState) -> str:
    """How many workers can have a slot at a time, why, and what helps."""
    assert state.geometry is not None, "slots are leased once the model is known"
    sharing, workers, codec = state.quotas.sharing, len(state.workers), Codec(state.job.wire.up)
    tightest = min(range(len(state.shards)), key=lambda i: state.shards[i].part_slots)
    among = "" if sharing == 1 else f", which {sharing} jobs share,"
    enough = sharing * (workers + 1) * state.geometry.plan.part_bytes(tightest, codec)
    return (
        f"{state.window() - 1} at a time can have a slot: the staging budget of shard {tightest}{among} "
        f"holds {state.window()} contributions, one of them for the slot that is due; for all workers add "
        f"shards, or start shards with --staging-bytes {enough}"
    )


def job_status(state: JobState) -> m.JobStatus:
    steps_per_second, samples_per_second = rates(state)
    step, kept = state.steps.get(state.version), state.checkpoints
    holding: dict[str, int] = {}
    for attempt in state.attempts:
        if not attempt.is_staged:
            holding[attempt.worker] = holding.get(attempt.worker, 0) + 1
    return m.JobStatus(
        job=state.name,
        state=state.life.value,
        why=state.why,
        term=state.term,
        lineage=state.lineage,
        version=state.version,
        stop_steps=state.stop_steps,
        open_step=-1 if step is None else step.step,
        slots_total=0 if step is None else len(step.slots),
        slots_admitted=0 if step is None else step.admitted,
        waiting_for=waiting_for(state),
        steps_per_second=steps_per_second,
        samples_per_second=samples_per_second,
        samples_committed=state.samples_committed,
        samples_skipped=state.samples_skipped if state.files is None else state.files.samples_skipped,
        manifest_digest="" if state.geometry is None else state.geometry.manifest.digest,
        config_json=state.resolved_json,
        counts=state.attempts.counts(),
        workers=state.workers.status(state.now, holding),
        shards=tuple(_shard_status(state, index) for index in range(len(state.shards))),
        steps_skipped=state.steps_skipped,
        changes=tuple(state.changes),
        skipped_samples=skipped_samples(state),
        best_version=state.evaluations.best_version,
        best_value=state.evaluations.best_value,
        events=state.history.told(state.now),
        drops=tuple(m.Drop(*item) for item in sorted(state.attempts.drops.items())),
        checkpoint_url=kept.url,
        checkpoint_version=NOTHING_LOADED if kept.kept is None else kept.kept.version,
        checkpoint_age_seconds=0.0 if kept.kept_at is None else state.now - kept.kept_at,
        checkpoint_every_seconds=60.0 * state.job.checkpoint.every_minutes if kept.url else 0.0,
        quotas=state.quotas.status(
            state.parameters, state.workers.attached, steps_per_second, (state.window(), state.unfolded())
        ),
    )


def _shard_status(state: JobState, index: int) -> m.ShardStatus:
    shard = state.shards[index]
    parameters = 0
    if state.geometry is not None:
        parameters = sum(fragment.elements for fragment in state.geometry.plan.shard_fragments(index))
    return m.ShardStatus(
        shard=index,
        address="" if shard.hello is None else shard.hello.address,
        incarnation=shard.incarnation,
        is_connected=shard.is_up,
        version=shard.version,
        numeric_fingerprint="" if shard.hello is None else fingerprint(state.kernel, shard.hello),
        parameters=parameters,
        part_slots=shard.part_slots,
        memory_bytes=shard.memory_bytes,
        queue=shard.queue,
    )
