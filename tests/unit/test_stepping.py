"""sheepfold_server.core.stepping, .acceptance and .recovery: the life of a step, and what is lost of it."""

from __future__ import annotations

import pytest
from tests.unit.desk import Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.reports import job_status
from sheepfold_server.core.state import Life
from sheepfold_wire.manifest import Manifest, TensorSpec

# --- admission -------------------------------------------------------------------------------------------


def test_contribution_is_admitted_once_every_shard_has_staged_it() -> None:
    desk = Desk().start()
    lease = desk.leased("a")
    desk.stage(lease, 0)
    assert not desk.sent(m.Admit)
    desk.stage(lease, 1)
    assert [desk.sent(m.Admit, shard) for shard in desk.shards] == [
        [m.Admit("j", 0, 0, lease.attempt, 1.0)]
    ] * 2


def test_staging_twice_on_one_shard_is_not_staging_on_two() -> None:
    desk = Desk().start()
    desk.stage(desk.leased("a"), 0, 0)
    assert not desk.sent(m.Admit)


def test_slots_are_admitted_in_order_whatever_the_arrival() -> None:
    desk = Desk().start("b", "c")
    leases = [desk.leased(worker) for worker in "abc"]
    for lease in reversed(leases):
        desk.stage(lease)
    assert [admit.slot for admit in desk.sent(m.Admit)] == [0, 1, 2]


def late_twice() -> tuple[Desk, m.Lease, m.Lease]:
    """Slot 0 of step 8 is leased to `a` and, late, to `b`."""
    desk = Desk(job_of(1, stop={"steps": 20})).start("b")
    for step in range(8):
        desk.stage(desk.leased("ab"[step % 2]))
        desk.finish(step)
    first = desk.leased("a")
    desk.now += 5.0
    return desk, first, desk.leased("b")


def test_first_attempt_staged_everywhere_wins() -> None:
    desk, first, second = late_twice()
    desk.stage(first, 0)
    desk.stage(second)
    assert desk.sent(m.Admit)[-1].attempt == second.attempt


def test_superseded_attempt_is_dropped_on_all_shards() -> None:
    desk, first, second = late_twice()
    desk.stage(second)
    assert [desk.ended(shard)[-1] for shard in desk.shards] == [(first.attempt, "superseded")] * 2


def test_part_staged_after_its_attempt_ended_is_dropped_where_it_came_from() -> None:
    desk, first, second = late_twice()
    desk.stage(second)
    before = len(desk.ended(0))
    desk.stage(first, 1)
    assert desk.ended(1)[-1] == (first.attempt, "ended")
    assert len(desk.ended(0)) == before


# --- what a contribution says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"weight": 0.0}, "weight is 0.0"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"samples": 3}, "covers 3 samples, its slot has 4"),
        ({"base_version": 1}, "computed at version 1, its lease says 0"),
    ],
)
def test_wrong_facts_are_refused_and_the_slot_leased_again(facts: dict[str, object], why: str) -> None:
    desk = Desk().start()
    lease = desk.leased("a")
    desk.stage(lease, **facts)
    assert why in desk.notes
    assert desk.leased("a").slot == lease.slot


def test_facts_that_differ_between_shards_are_refused() -> None:
    desk = Desk().start()
    lease = desk.leased("a")
    desk.stage(lease, 0, weight=4.0)
    desk.stage(lease, 1, weight=5.0)
    assert "differ between shards" in desk.notes


def test_free_running_loader_may_bring_another_number_of_samples() -> None:
    desk = Desk(job_of(data={"mode": "free"})).start()
    desk.stage(desk.leased("a"), samples=3)
    assert desk.sent(m.Admit)


def test_newer_version_is_accepted_under_bounded_staleness() -> None:
    desk = Desk(job_of(1, batch={"max_staleness": 1})).start("b")
    first, ahead = desk.leased("a"), desk.leased("b")
    desk.stage(first)
    desk.finish(0)
    desk.stage(ahead, base_version=1)
    assert desk.sent(m.Admit)[-1].attempt == ahead.attempt


def test_newer_version_counts_although_one_shard_is_heard_of_later() -> None:
    """A worker may have version 1 before the coordinator has heard of it from every shard."""
    desk = Desk(job_of(1, batch={"max_staleness": 1})).start("b")
    first, ahead = desk.leased("a"), desk.leased("b")
    desk.stage(first)
    desk.prepare(0)
    desk.from_shard(0, m.Applied("j", 0, ()))
    desk.stage(ahead, 0, base_version=1)
    desk.from_shard(1, m.Applied("j", 0, ()))
    desk.stage(ahead, 1, base_version=1)
    assert desk.sent(m.Admit)[-1].attempt == ahead.attempt


def test_tensor_absent_from_some_contributions_is_refused_if_the_job_says_so() -> None:
    desk = Desk(job_of(batch={"absent": "refuse"})).start("b")
    first, second = desk.leased("a"), desk.leased("b")
    desk.stage(first, present=b"\x03")
    desk.stage(second, present=b"\x01")
    assert "set of present tensors differs" in desk.notes


def test_absence_is_noticed_also_when_both_are_staged_at_once() -> None:
    """Neither is admitted when the first reports come in; both may not win."""
    desk = Desk(job_of(batch={"absent": "refuse"})).start("b", "c")
    _, first, second = (desk.leased(worker) for worker in "abc")
    desk.stage(first, 0, present=b"\x03")
    desk.stage(second, 0, present=b"\x01")
    desk.stage(first, 1, present=b"\x03")
    desk.stage(second, 1, present=b"\x01")
    assert "set of present tensors differs" in desk.notes


def test_presence_of_a_step_is_the_union_of_its_contributions() -> None:
    desk = Desk(job_of(2)).start("b")
    first, second = desk.leased("a"), desk.leased("b")
    desk.stage(first, present=b"\x02")
    desk.stage(second, present=b"\x01")
    desk.prepare(0)
    assert desk.sent(m.Commit)[0].present == b"\x03"


def test_equal_weights_of_indexed_samples_are_the_factor_one() -> None:
    desk = Desk(job_of(2)).start()
    desk.fill()
    assert [admit.factor for admit in desk.sent(m.Admit)] == [1.0, 1.0]
    assert desk.sent(m.Close)[0].divisor == 2.0


def test_token_weights_are_factors_in_units_of_a_slot() -> None:
    desk = Desk(job_of(2, batch={"weight": "tokens"})).start("b")
    first, second = desk.leased("a"), desk.leased("b")
    desk.stage(first, weight=2.0)
    desk.stage(second, weight=6.0)
    assert [admit.factor for admit in desk.sent(m.Admit)] == [0.5, 1.5]
    assert desk.sent(m.Close)[0].divisor == 2.0


# --- refusals --------------------------------------------------------------------------------------------


def test_refused_contribution_is_leased_again() -> None:
    desk = Desk().start("b")
    lease = desk.leased("a")
    desk.refuse(lease)
    assert desk.leased("b").slot == lease.slot


def test_slot_refused_three_times_skips_its_step() -> None:
    desk = Desk().start()
    for _ in range(3):
        desk.refuse(desk.leased("a"))
    commit = desk.sent(m.Commit)[0]
    assert (commit.is_skip, commit.step, commit.map_digest) == (True, 0, "")
    assert commit == desk.sent(m.Commit, 1)[0]


def test_skip_names_slot_samples_and_tensor() -> None:
    desk = Desk().start()
    for _ in range(3):
        desk.refuse(desk.leased("a"))
    desk.from_all(m.Applied("j", 0, ()))
    reason = desk.reports[0].skip_reason
    assert "slot 0 of step 0 (samples 0 to 3 of the stream) was refused 3 times" in reason
    assert "3 non-finite elements in tensor a" in reason


def test_slot_refused_three_times_pauses_the_job_if_it_says_so() -> None:
    desk = Desk(job_of(leases={"refused": "pause"})).start()
    for _ in range(3):
        desk.refuse(desk.leased("a"))
    assert desk.state.life is Life.PAUSED
    assert not desk.sent(m.Commit)


def test_one_contribution_refused_by_two_shards_counts_once() -> None:
    desk = Desk().start()
    for _ in range(2):
        lease = desk.leased("a")
        desk.refuse(lease, 0)
        desk.refuse(lease, 1)
    assert not desk.sent(m.Commit)


def test_skipped_step_takes_its_samples_with_it() -> None:
    desk = Desk().start()
    for _ in range(3):
        desk.refuse(desk.leased("a"))
    desk.from_all(m.Applied("j", 0, ()))
    assert (desk.state.samples_committed, desk.state.samples_skipped) == (0, 16)
    assert desk.leased("a").sample_start == 16


# --- close, prepared, commit -----------------------------------------------------------------------------


def test_full_step_is_closed_with_the_same_map_on_every_shard() -> None:
    desk = Desk(job_of(2)).start()
    leases = desk.fill()
    close = desk.sent(m.Close)[0]
    assert close.slots == tuple(m.SlotEntry(i, lease.attempt) for i, lease in enumerate(leases))
    assert desk.sent(m.Close, 1) == [close]


def test_commit_waits_for_every_shard() -> None:
    desk = Desk(job_of(1)).start()
    desk.fill()
    digest = desk.sent(m.Close)[0].map_digest
    desk.from_shard(0, m.Prepared("j", 0, digest, True, 1.0, (1.0,)))
    assert not desk.sent(m.Commit)


def test_prepared_of_a_map_given_up_is_ignored() -> None:
    desk = Desk(job_of(1)).start()
    desk.fill()
    desk.from_all(m.Prepared("j", 0, "another", True, 1.0, (1.0,)))
    assert not desk.sent(m.Commit)


def test_nobody_is_told_before_the_decision_is_durable() -> None:
    desk = Desk(job_of(1)).start()
    desk.fill()
    desk.is_durable = False
    desk.prepare(0)
    assert not desk.sent(m.Commit)
    desk.tell(e.Persisted(desk.state.records))
    assert desk.sent(m.Commit, 1)


def test_sum_that_is_not_finite_on_one_shard_is_skipped_on_all() -> None:
    desk = Desk(job_of(1)).start()
    desk.fill()
    digest = desk.sent(m.Close)[0].map_digest
    desk.from_shard(0, m.Prepared("j", 0, digest, True, 1.0, (1.0,)))
    desk.from_shard(1, m.Prepared("j", 0, digest, False, 1.0, (1.0,)))
    assert [desk.sent(m.Commit, shard)[0].is_skip for shard in desk.shards] == [True, True]


def test_step_is_published_once_every_shard_has_applied_it() -> None:
    desk = Desk(job_of(1)).start()
    desk.fill()
    desk.prepare(0)
    desk.from_shard(0, m.Applied("j", 0, ()))
    assert desk.state.version == 0
    desk.from_shard(1, m.Applied("j", 0, ()))
    assert desk.state.version == 1
    assert desk.reports[0].version == 1


def test_report_says_who_computed_what() -> None:
    desk = Desk(job_of(2)).start("b")
    desk.stage(desk.leased("a"), loss=2.0)
    desk.stage(desk.leased("b"), loss=4.0)
    desk.finish(0)
    report = desk.reports[0]
    assert [(slot.worker, slot.attempts) for slot in report.slots] == [("a", 1), ("b", 1)]
    assert (report.samples, report.loss) == (8, 3.0)


def test_every_attempt_is_accounted_for() -> None:
    desk = Desk(job_of(2)).start("b")
    desk.refuse(desk.leased("a"))
    desk.stage(desk.leased("a"))
    desk.stage(desk.leased("b"))
    desk.finish(0)
    desk.leased("b")
    counts = desk.state.attempts.counts()
    assert (counts.leased, counts.committed, counts.dropped, counts.outstanding) == (4, 2, 1, 1)


def test_later_step_is_closed_only_when_it_is_the_lowest() -> None:
    desk = Desk(job_of(1, batch={"delay": 1})).start("b")
    first, ahead = desk.leased("a"), desk.leased("b")
    desk.stage(ahead)
    assert not desk.sent(m.Close)
    desk.stage(first)
    assert [close.step for close in desk.sent(m.Close)] == [0]
    desk.finish(0)
    assert [close.step for close in desk.sent(m.Close)] == [0, 1]


# --- norms of split slices -------------------------------------------------------------------------------

SPLIT = Manifest((TensorSpec("big", (3 * 65536,), "float32", "parameter"),))


def split_desk() -> Desk:
    desk = Desk(job_of(1, placement={"split_above_bytes": 4096}), shards=3)
    for shard in desk.shards:
        desk.connect(shard)
    desk.attach("a", SPLIT)
    for shard in desk.shards:
        desk.opened(shard)
    desk.stage(desk.leased("a"), present=b"\x01")
    desk.from_all(m.Applied("j", -1, ()))
    desk.stage(desk.leased("a"), present=b"\x01")
    desk.prepare(0)
    return desk


def norms(block: int, value: float) -> m.Norms:
    return m.Norms("j", 0, (m.BlockNorms(block, value, 2 * value),))


def test_totals_are_added_in_block_order_whoever_is_first() -> None:
    """1e16 + 1 + 1 and 1 + 1 + 1e16 differ in fp64."""
    desk = split_desk()
    for shard, value in ((2, 1.0), (1, 1.0), (0, 1e16)):
        desk.from_shard(shard, norms(shard, value))
    assert desk.sent(m.Totals, 1)[0].slices == (
        m.SliceTotals(0, (1e16 + 1.0) + 1.0, (2e16 + 2.0) + 2.0, 3.0),
    )


def test_totals_wait_for_every_shard_with_a_block() -> None:
    desk = split_desk()
    desk.from_shard(0, norms(0, 1.0))
    desk.from_shard(1, norms(1, 1.0))
    assert not desk.sent(m.Totals)


def test_totals_are_repeated_to_a_resumed_shard() -> None:
    desk = split_desk()
    for shard in desk.shards:
        desk.from_shard(shard, norms(shard, 1.0))
    desk.connect(1, is_resumed=True)
    desk.opened(1, version=0, prepared=desk.sent(m.Commit, 0)[0].map_digest)
    assert len(desk.sent(m.Totals, 1)) == 2


def test_gradient_norm_is_over_all_blocks_of_the_model() -> None:
    desk = split_desk()
    for shard in desk.shards:
        desk.from_shard(shard, norms(shard, 1.0))
    desk.from_all(m.Applied("j", 0, ()))
    assert desk.reports[0].gradient_norm == 3.0**0.5


# --- parts lost ------------------------------------------------------------------------------------------


def test_lost_part_is_refolded_where_raw_bytes_are_held() -> None:
    desk = Desk().start("b", "c")
    leases = [desk.leased(worker) for worker in "abc"]
    for lease in leases:
        desk.stage(lease)
    desk.from_shard(1, m.PartLost("j", 0, 1))
    assert [desk.sent(m.Refold, shard) for shard in desk.shards] == [[m.Refold("j", 0, (1,))]] * 2
    assert not desk.sent(m.Restart)
    again = desk.leased("b")
    assert again.slot == 1
    desk.stage(again)
    assert [admit.slot for admit in desk.sent(m.Admit)[-2:]] == [1, 2]


def test_lost_part_restarts_the_step_where_raw_bytes_are_gone() -> None:
    desk = Desk().start("b")
    desk.stage(desk.leased("a"))
    desk.stage(desk.leased("b"))
    desk.from_shard(0, m.Folded("j", 0, 2, False))
    desk.from_shard(1, m.PartLost("j", 0, 1))
    assert len(desk.sent(m.Restart, 0)) == len(desk.sent(m.Restart, 1)) == 1
    assert desk.leased("a").slot == 0
    assert desk.leased("b").slot == 1


def test_lost_part_restarts_the_step_where_the_slots_above_it_fill_the_window() -> None:
    """They would wait for the lost slot, and the lost slot for room."""
    desk = Desk(part_slots=3).start("b")
    desk.fill("a", "b")
    desk.from_shard(0, m.PartLost("j", 0, 0))
    assert desk.sent(m.Restart)
    assert desk.leased("a").slot == 0


def test_closed_step_that_lost_a_part_is_open_again() -> None:
    desk = Desk(job_of(2)).start("b")
    desk.fill("a", "b")
    old = desk.sent(m.Close)[0]
    desk.from_shard(0, m.PartLost("j", 0, 0))
    desk.from_all(m.Prepared("j", 0, old.map_digest, True, 1.0, (1.0,)))
    assert not desk.sent(m.Commit)
    desk.stage(desk.leased("a"))
    assert desk.sent(m.Close)[1].map_digest != old.map_digest


def test_decided_step_is_never_restarted() -> None:
    desk = Desk(job_of(1)).start()
    desk.fill()
    desk.prepare(0)
    desk.from_shard(0, m.PartLost("j", 0, 0))
    assert not desk.sent(m.Restart)
    assert not desk.sent(m.Refold)


def test_loss_of_a_slot_that_is_not_admitted_any_more_is_old_news() -> None:
    desk = Desk().start("b")
    desk.stage(desk.leased("a"))
    desk.stage(desk.leased("b"))
    desk.from_shard(0, m.PartLost("j", 0, 0))
    desk.from_shard(1, m.PartLost("j", 0, 1))
    assert len(desk.sent(m.Refold)) == 1


# --- clipping of each slot, skips ----------------------------------------------------------------------

CLIPPED = {"lr": {"peak": 0.1}, "clip_norm": 2.0, "clip_place": "slot"}


def test_a_slot_above_the_clip_is_admitted_with_its_own_scale_and_its_whole_weight() -> None:
    """The norm is over the blocks of all shards: 9 + 16, whichever shard held which."""
    desk = Desk(job_of(1, optimizer=CLIPPED), shards=2)
    for shard in desk.shards:
        desk.connect(shard)
    two = Manifest(tuple(TensorSpec(name, (70,), "float32", "parameter") for name in "ab"))
    desk.attach("a", two)
    for shard in desk.shards:
        desk.opened(shard)
    desk.stage(desk.leased("a"), present=b"\x03")
    desk.from_all(m.Applied("j", -1, ()))
    lease = desk.leased("a")
    for shard, square in ((1, 16.0), (0, 9.0)):
        desk.from_shard(
            shard, m.Staged("j", lease.attempt, b"", desk.facts(lease, present=b"\x03"), (square,))
        )
    assert desk.sent(m.Admit)[-1].factor == 2.0 / 5.0
    assert desk.sent(m.Close)[-1].divisor == 1.0
    desk.prepare(0)
    assert desk.sent(m.Commit)[-1].clip_scale == 1.0


def test_skipped_steps_are_counted_in_the_status() -> None:
    desk = Desk(job_of(1)).start()
    desk.stage(desk.leased("a"))
    desk.prepare(0, is_finite=False)
    desk.from_all(m.Applied("j", 0, ()))
    assert job_status(desk.state).steps_skipped == 1


def test_a_lease_names_the_sequence_length_of_its_stage() -> None:
    stages = [{"steps": 1, "sequence": 128}, {"steps": 9, "sequence": 512}]
    desk = Desk(job_of(1, batch={"stage": stages})).start()
    first = desk.leased("a")
    assert first.sequence == 128
    desk.stage(first)
    desk.finish(0)
    assert desk.leased("a").sequence == 512
