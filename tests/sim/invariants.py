"""What must hold in every run, by name; numbers as in the reliability reference.

Each function raises Violation. The world calls the cheap ones after every event, the others at every commit.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from tests.sim.engine import Applied, Engine
from tests.sim.store import SimStore

import sheepfold_wire.messages as m
from sheepfold_server.core.coordinator import Coordinator
from sheepfold_server.core.events import BooksFound
from sheepfold_server.core.past import books_at
from sheepfold_server.core.records import Books, CoordinatorRecord, Ledger, ShardRecord
from sheepfold_server.core.replay import Replay, ReplayEffect
from sheepfold_server.core.shard import Shard
from sheepfold_server.core.state import JobState, Life

if TYPE_CHECKING:
    from tests.sim.world import World


class Violation(AssertionError):
    """An invariant does not hold; `name` is the function that found it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


def conservation(state: JobState) -> None:
    """I17: leased = committed + skipped + dropped + outstanding; the same for samples of the stream."""
    counts = state.attempts.counts()
    ended = counts.committed + counts.skipped + counts.dropped
    if counts.leased != ended + counts.outstanding:
        raise Violation("conservation", f"{counts}")
    due = state.batch.offset(max(0, state.version))
    if state.samples_committed + state.samples_skipped != due:
        raise Violation(
            "conservation",
            f"{state.samples_committed} + {state.samples_skipped} samples, {due} are due",
        )


def bounded_staging(shard: Shard) -> None:
    """I10: bytes are held for at most `part_slots` parts, and one init part."""
    held = [part for part in shard._parts._parts.values() if part.has_bytes]
    most = shard.job.part_slots + any(part.is_init for part in held)
    if len(held) > most:
        raise Violation(
            "bounded_staging", f"shard {shard.job.shard} holds {len(held)} parts, room is for {most}"
        )
    if len(shard._parts._parts) > 16 * (shard.job.part_slots + 8 * shard.job.open_steps):
        raise Violation("bounded_staging", f"{len(shard._parts._parts)} parts are remembered")


def consistent_versions(world: World) -> None:
    """I6: no shard is ahead of the newest durable decision, none is behind what is published."""
    state = world.state
    for host in world.shards:
        if host.shard is None or host.has_lost or host.shard.job.lineage != world.lineage:
            continue
        if host.shard.version > world.decided + 1:
            raise Violation(
                "consistent_versions",
                f"shard {host.index} is at {host.shard.version}, decided: {world.decided}",
            )
        if host.shard.version < state.version:
            raise Violation(
                "consistent_versions",
                f"shard {host.index} is at {host.shard.version}, published: {state.version}",
            )


def exactly_once(world: World, engine: Engine, applied: Applied) -> None:
    """I1: one attempt per slot of a committed step, at its own samples; no contribution in two steps."""
    if applied.is_skip:
        return
    slots = [slot for slot, _, _, _ in applied.parts]
    if slots != list(range(world.state.batch.slots(applied.step))):
        raise Violation("exactly_once", f"step {applied.step} is the sum of slots {slots}")
    mapped = tuple((entry.slot, entry.attempt) for entry in engine.appended[applied.step])
    if mapped != tuple((slot, attempt) for slot, attempt, _, _ in applied.parts):
        raise Violation("exactly_once", f"step {applied.step} was not folded as its slot map says")
    for slot, attempt, gradient, _ in applied.parts:
        contribution = world.contributions[attempt]
        if contribution.gradient != gradient:
            raise Violation(
                "exactly_once", f"slot {slot} of step {applied.step}: bytes are not those of {attempt}"
            )
        home = world.steps_of_sequence.setdefault(contribution.sequence, (applied.step, slot))
        if home != (applied.step, slot):
            raise Violation(
                "exactly_once",
                f"samples {contribution.sequence} count in {home} and in {(applied.step, slot)}",
            )
        if not world.is_asynchronous and contribution.sequence != applied.step * len(slots) + slot:
            raise Violation(
                "exactly_once", f"slot {slot} of step {applied.step} holds samples {contribution.sequence}"
            )


def all_shards_or_none(world: World, shard: int, applied: Applied) -> None:
    """I2: the same slot map, contributions and decision on every shard."""
    first = world.ledger.setdefault(applied.step, applied)
    if first != applied:
        raise Violation(
            "all_shards_or_none", f"step {applied.step} on shard {shard}: {applied}, elsewhere {first}"
        )


def no_halt(shard: int, why: str) -> None:
    """I2: a shard halts when commands contradict what it holds; a correct coordinator never makes it."""
    raise Violation("all_shards_or_none", f"shard {shard} halts: {why}")


def replayed(shard: int, replay: Replay, record: ShardRecord, place: int) -> list[ReplayEffect]:
    """I6: a shard's log is enough to follow every decision it names."""
    try:
        return replay.take(record, place)
    except LookupError as error:
        raise Violation("consistent_versions", f"shard {shard} cannot replay: {error}") from None


def pure_pull(weights: dict[int, tuple[int, int]], shards: int, version: int, due: int | None) -> None:
    """I3: what a worker computes with is one version from all shards, the one it was told."""
    found = {weights.get(shard) for shard in range(shards)}
    if len(found) != 1 or None in found or {v for pair in found if pair for v in pair[:1]} != {version}:
        raise Violation("pure_pull", f"version {version} is told, weights are {weights}")
    if due is not None and version != due:
        raise Violation("pure_pull", f"version {due} is leased, weights are {version}")


def finite_state(applied: Applied, world: World) -> None:
    """I12: no applied sum holds a contribution that is not finite, and none that overflows."""
    if applied.is_skip:
        return
    bad = [attempt for _, attempt, _, _ in applied.parts if not world.contributions[attempt].is_finite]
    if bad or world.scenario.setting.overflows(applied.step) or not math.isfinite(applied.clip_scale):
        raise Violation(
            "finite_state", f"step {applied.step} is applied with {bad or 'a sum that is not finite'}"
        )


def norms_in_order(engine: Engine) -> None:
    """I5: totals of split slices are those of all blocks in block order, whichever shard holds them."""
    if engine.wrong_totals:
        raise Violation("same_history", engine.wrong_totals)


def same_history(world: World, expected: int) -> None:
    """I5: the state after the last step is that of the undisturbed run on one shard with one worker."""
    for host in world.shards:
        if host.engine.state != expected:
            raise Violation(
                "same_history", f"shard {host.index} ends in {host.engine.state}, due is {expected}"
            )


def same_state_everywhere(world: World) -> None:
    """I6: at the end all shards have one version and one state, and hold no bytes nobody counts."""
    ends = {(host.shard.version, host.engine.state) for host in world.shards if host.shard is not None}
    if len(ends) != 1:
        raise Violation("consistent_versions", f"shards end in {ends}")
    for host in world.shards:
        if host.shard is None:
            continue
        counted = {key for key, part in host.shard._parts._parts.items() if part.has_bytes}
        held = host.engine.bytes.keys() | host.engine.ahead
        if not held <= counted:
            raise Violation("bounded_staging", f"shard {host.index} leaks {held - counted}")


def liveness(world: World, limit: float) -> None:
    """I11: once faults stop, the job reaches its last step within a stated time."""
    state = world.state
    if state.life is Life.ENDED:
        return
    if world.now > limit:
        raise Violation("liveness", f"at {world.now:.1f} s: version {state.version}, {world.waiting_for()}")


def answered_once(answered: set[int], caller: int) -> None:
    """Every call is answered exactly once."""
    if caller in answered:
        raise Violation("answered_once", f"call {caller} is answered twice")
    answered.add(caller)


def published_in_order(world: World, report: m.StepReport) -> None:
    """I4: the published version grows by one and never goes back; its decision was durable first."""
    again = report.version == world.published and world.is_first_publish
    if (report.version != world.published + 1 and not again) or report.step > world.decided:
        raise Violation(
            "published_in_order", f"{report.version} after {world.published}, decided: {world.decided}"
        )
    world.published, world.is_first_publish = report.version, False
    if not report.is_skip:
        world.committed.update(slot.attempt for slot in report.slots)


def books_are_the_log(coordinator: Coordinator, log: list[CoordinatorRecord], books: Books) -> None:
    """I7: what a checkpoint keeps of the coordinator is what its log gives, but for leases that ended."""
    coordinator.remember([record for record in log if not isinstance(record, Books)])
    _compare("books_are_the_log", books.ledger, coordinator.remembered())


def same_books_from_further_back(log: list[CoordinatorRecord], books: Books) -> None:
    """I7: what the log gives of an earlier version is the same from whichever books one begins."""
    begins = [record for record in log if isinstance(record, Books) and record.lineage == books.lineage]
    version, saved = books.ledger.version, [record for record in begins if not record.why]
    before = [record for record in log if record not in saved]
    _compare("same_books_from_further_back", books.ledger, books_at(before, version))


def _compare(name: str, taken: Ledger, of_the_log: BooksFound) -> None:
    assert of_the_log.books is not None
    kept, found = _of_the_log(taken), _of_the_log(of_the_log.books.ledger)
    wrong = {key: (kept[key], found[key]) for key in kept if kept[key] != found[key]}
    if wrong:
        raise Violation(name, f"version {taken.version}, (kept, of the log): {wrong}")


def _of_the_log(taken: Ledger) -> dict[str, object]:
    """By field, without what no log holds: attempts that were dropped, and places leased just now."""
    settled = frozenset(range(taken.sequences)).difference(taken.returned)
    same = replace(taken, attempts_dropped=0, leased_again=0, sequences=0, returned=())
    return {**{field.name: getattr(same, field.name) for field in fields(same)}, "settled": settled}


def checkpoint_is_whole(world: World, ref: m.CheckpointRef) -> None:
    """I7: all parts of a checkpoint that is said to be kept are in the store, and are of one version."""
    store = world.store
    files = store.kept[ref].files
    found = {store.parts[file] for file in files if file in store.parts}
    if len(found) != 1 or not all(file in store.parts for file in files):
        raise Violation("checkpoint_is_whole", f"{ref} names {files}, and these hold {found}")


def read_as_stored(store: SimStore, ref: m.CheckpointRef, shard: int, state: int) -> None:
    """I14: what a shard begins with is what was stored."""
    stored, _ = store.parts[store.kept[ref].files[shard]]
    if state != stored:
        raise Violation("read_as_stored", f"shard {shard} begins at {ref} with {state}, stored was {stored}")


def lineage_is_durable(world: World, lineage: str) -> None:
    """I7: a coordinator works on the history that its log ends with."""
    if lineage != world.lineage:
        raise Violation("lineage_is_durable", f"{lineage} begins, the log says {world.lineage}")


def told_the_truth(world: World, ends: tuple[m.AttemptEnd, ...]) -> None:
    """A worker is told that its contribution is committed if and only if it is."""
    for end in ends:
        if end.is_committed != (end.attempt in world.committed):
            raise Violation("told_the_truth", f"{end}, committed are {sorted(world.committed)}")


def sessions_go_on(name: str, error: Exception) -> None:
    """I11: nothing the network or another worker does makes a session give up."""
    raise Violation("sessions_go_on", f"the session of {name} failed: {error!r}")
