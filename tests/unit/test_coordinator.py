"""sheepfold_server.core.coordinator: creation, attaching, leases as calls, administration, shards' links."""

from __future__ import annotations

import pytest
from tests.unit.desk import MODEL, Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.state import Life
from sheepfold_wire.errors import (
    BadConfig,
    ConfigMismatch,
    DataMismatch,
    JobHasEnded,
    ManifestMismatch,
    NoCheckpoint,
    NotReady,
    PreconditionError,
    WindowTooSmall,
    WorkerUnknown,
)
from sheepfold_wire.manifest import Manifest, TensorSpec

OTHER = Manifest((TensorSpec("a", (11,), "float32", "parameter"), MODEL.tensors[1]))
WITH_BUFFER = Manifest((*MODEL.tensors, TensorSpec("bn.mean", (2,), "float32", "statistic")))


def create(desk: Desk, request_id: str = "r1", slots: int = 4, manifest: str = "") -> m.CreateJobReply:
    reply = desk.ask(m.CreateJobRequest(request_id, job_of(slots).to_json(), manifest))
    assert isinstance(reply, m.CreateJobReply)
    return reply


# --- creation --------------------------------------------------------------------------------------------


def test_first_create_makes_the_job() -> None:
    assert create(Desk()) == m.CreateJobReply("j", is_new=True)


def test_create_with_the_same_request_id_is_answered_alike() -> None:
    """A retry after a lost reply must read as the first call."""
    desk = Desk()
    assert create(desk) == create(desk)


def test_create_by_another_caller_finds_the_job() -> None:
    desk = Desk()
    create(desk)
    assert not create(desk, "r2").is_new


def test_create_with_another_configuration_names_the_first_difference() -> None:
    with pytest.raises(ConfigMismatch, match=r"batch\.samples is 16 in the job and 20 in the request"):
        create(Desk(), slots=5)


def test_create_with_another_manifest_names_the_first_difference() -> None:
    desk = Desk()
    create(desk, manifest=MODEL.to_json())
    with pytest.raises(ManifestMismatch, match=r"tensor 0 \(a\): shape"):
        create(desk, "r2", manifest=OTHER.to_json())


def test_answers_of_administrative_calls_are_bounded() -> None:
    desk = Desk()
    for number in range(1100):
        create(desk, f"r{number}")
    assert len(desk.coordinator._answered) == 1024


# --- attaching -------------------------------------------------------------------------------------------


def test_first_worker_brings_the_manifest_and_every_shard_opens_the_job() -> None:
    desk = Desk()
    for shard in desk.shards:
        desk.connect(shard)
    assert desk.attach("a").version == -1
    opened = [f for f in desk.effects if isinstance(f, e.ToShard) and isinstance(f.command, m.OpenJob)]
    assert [f.shard for f in opened] == [0, 1]


def test_worker_with_another_model_is_refused() -> None:
    desk = Desk().open()
    with pytest.raises(ManifestMismatch):
        desk.attach("b", OTHER)


def test_attaching_before_all_shards_are_there_is_not_ready() -> None:
    desk = Desk()
    desk.connect(0)
    with pytest.raises(NotReady, match=r"shards \[1\] of 2"):
        desk.attach("a")


def test_reader_without_a_manifest_waits_for_the_first_worker() -> None:
    desk = Desk()
    for shard in desk.shards:
        desk.connect(shard)
    with pytest.raises(NotReady, match="no model yet"):
        desk.attach("r", None, is_reader=True)


def test_buffers_without_a_policy_are_refused_by_name() -> None:
    desk = Desk()
    desk.connect(0)
    desk.connect(1)
    with pytest.raises(PreconditionError, match=r"bn\.mean"):
        desk.attach("a", WITH_BUFFER)


def test_model_without_parameters_is_refused() -> None:
    desk = Desk(job_of(statistics={"policy": "mean"}))
    with pytest.raises(PreconditionError, match="nothing to train"):
        desk.attach("a", Manifest(WITH_BUFFER.tensors[2:]))


def test_job_that_ends_before_its_plan_is_refused_when_it_is_created_and_may_be_shortened_later() -> None:
    stages = {"stage": [{"steps": 3}, {"steps": 4}]}
    short, whole = (job_of(batch=stages, stop={"steps": steps}) for steps in (6, 7))
    with pytest.raises(BadConfig, match=r"stop\.steps = 6 ends before .* 3 \+ 4 = 7 steps"):
        Desk(short).ask(m.CreateJobRequest("r1", short.to_json()))
    desk = Desk(whole)
    desk.ask(m.CreateJobRequest("r1", whole.to_json()))
    desk.ask(m.ConfigChangeRequest("c1", "j", 1, '{"stop.steps": 6}', "me"))
    again = desk.ask(m.CreateJobRequest("r2", whole.to_json()))
    assert isinstance(again, m.CreateJobReply)
    assert not again.is_new


def test_manifest_that_is_no_json_is_refused() -> None:
    with pytest.raises(BadConfig, match="no JSON"):
        create(Desk(), manifest="{")


def test_another_data_set_is_refused() -> None:
    desk = Desk(job_of(data={"samples": 1000, "fingerprint": "f"})).open()
    with pytest.raises(DataMismatch, match="999 samples"):
        desk.attach("b", data_samples=999)
    with pytest.raises(DataMismatch, match="fingerprint is g"):
        desk.attach("b", data_fingerprint="g")


def test_attach_tells_where_shards_listen() -> None:
    shards = Desk().start().attach("b").shards
    assert shards == (m.ShardAddress(0, "shard-0", 1), m.ShardAddress(1, "shard-1", 2))


# --- the first weights -----------------------------------------------------------------------------------


def test_one_worker_gets_the_init_lease_and_others_wait() -> None:
    desk = Desk().open()
    desk.attach("b")
    first = desk.leased("a")
    assert first.is_init
    assert desk.lease("b") is None


def test_init_lease_of_a_dead_worker_is_given_again() -> None:
    desk = Desk().open()
    desk.leased("a")
    desk.attach("b")
    desk.wait(10.0)
    assert desk.leased("b").is_init


def test_init_is_loaded_once_its_record_is_durable() -> None:
    desk = Desk().open()
    desk.is_durable = False
    desk.stage(desk.leased("a"))
    assert not desk.sent(m.LoadInit)
    desk.tell(e.Persisted(desk.state.records))
    assert len(desk.sent(m.LoadInit, shard=1)) == 1


def test_link_resumed_before_the_init_record_is_durable_does_not_load_it() -> None:
    desk = Desk().open()
    desk.is_durable = False
    desk.stage(desk.leased("a"))
    desk.connect(0, is_resumed=True)
    desk.opened(0)
    assert not desk.sent(m.LoadInit)


def test_link_resumed_while_version_0_is_loaded_is_told_again() -> None:
    desk = Desk().open()
    desk.stage(desk.leased("a"))
    desk.connect(0, is_resumed=True)
    desk.opened(0)
    assert len(desk.sent(m.LoadInit, 0)) == 2
    assert len(desk.sent(m.LoadInit, 1)) == 1


def test_initial_weights_refused_three_times_pause_the_job() -> None:
    desk = Desk().open()
    for _ in range(3):
        desk.refuse(desk.leased("a"))
    assert desk.state.life is Life.PAUSED
    assert "initial weights were refused 3 times" in desk.state.why


def test_version_0_is_loaded_also_while_the_job_is_paused() -> None:
    desk = Desk().open()
    desk.stage(desk.leased("a"))
    desk.from_shard(0, m.Applied("j", -1, ()))
    desk.from_shard(0, m.ShardFailed("j", "disk", desk.state.term))
    desk.from_shard(1, m.Applied("j", -1, ()))
    assert (desk.state.life, desk.state.version) == (Life.PAUSED, 0)


# --- leases as calls -------------------------------------------------------------------------------------


def test_unknown_worker_is_told_to_attach() -> None:
    with pytest.raises(WorkerUnknown):
        Desk().start().lease("stranger")


def test_call_for_a_lease_is_held_until_there_is_work() -> None:
    desk = Desk(job_of(slots=1)).start("b")
    lease = desk.leased("a")
    assert desk.ask(m.LeaseRequest("j", "b", wait_seconds=30.0)) is None
    held = desk._callers
    desk.stage(lease)
    desk.finish(0)
    reply = desk.answer_of(held)
    assert isinstance(reply, m.LeaseReply)
    assert reply.lease is not None
    assert reply.lease.step == 1


def test_held_call_is_answered_when_its_wait_is_over() -> None:
    desk = Desk(job_of(slots=1)).start("b")
    desk.leased("a")
    desk.ask(m.LeaseRequest("j", "b", wait_seconds=3.0))
    held = desk._callers
    desk.wait(2.9)
    assert desk.answer_of(held) is None
    desk.wait(0.1)
    reply = desk.answer_of(held)
    assert isinstance(reply, m.LeaseReply)
    assert (reply.state, reply.why.startswith("slot 0 of step 0, leased to a")) == ("wait", True)


def test_later_call_of_a_worker_answers_its_earlier_one() -> None:
    desk = Desk(job_of(slots=1)).start("b")
    desk.leased("a")
    desk.ask(m.LeaseRequest("j", "b", wait_seconds=30.0))
    held = desk._callers
    desk.ask(m.LeaseRequest("j", "b", wait_seconds=30.0))
    reply = desk.answer_of(held)
    assert isinstance(reply, m.LeaseReply)
    assert reply.state == "wait"


def test_lost_reply_is_answered_with_the_same_lease() -> None:
    desk = Desk().start()
    assert desk.leased("a") == desk.leased("a")


def test_worker_that_holds_a_lease_gets_another() -> None:
    desk = Desk().start()
    first = desk.leased("a")
    assert desk.leased("a", first).slot == 1


def test_lease_names_samples_of_the_stream_and_a_seed_of_the_slot() -> None:
    desk = Desk().start()
    first = desk.leased("a")
    second = desk.leased("a", first)
    assert (second.sample_start, second.sample_count, second.base_version) == (4, 4, 0)
    assert first.seed != second.seed


def test_ended_job_answers_ended() -> None:
    desk = Desk(job_of(slots=1, stop={"steps": 1})).start()
    desk.stage(desk.leased("a"))
    desk.finish(0)
    assert desk.lease_reply("a").state == "ended"
    assert desk.coordinator.has_ended


def test_worker_is_told_what_became_of_its_contributions() -> None:
    desk = Desk(job_of(1)).start()
    for step, is_finite in ((0, True), (1, False)):
        desk.fill()
        desk.prepare(step, is_finite)
        desk.from_all(m.Applied("j", step, ()))
    ends = desk.lease_reply("a").ends
    assert [(end.is_committed, end.reason) for end in ends[-2:]] == [
        (True, "committed"),
        (False, "step skipped: the summed gradient is not finite"),
    ]


def test_metrics_of_a_step_are_means_by_weight_over_the_slots_that_have_them() -> None:
    desk = Desk(job_of(2, data={"mode": "free"})).start()
    for weight, metrics in (
        (1.0, (m.Metric("acc", 0.5), m.Metric("aux", 2.0))),
        (3.0, (m.Metric("acc", 0.9),)),
    ):
        desk.stage(desk.leased("a"), weight=weight, metrics=metrics)
        desk.folded()
    desk.finish(0)
    assert [(metric.name, round(metric.value, 9)) for metric in desk.reports[-1].metrics] == [
        ("acc", 0.8),
        ("aux", 2.0),
    ]


def test_metrics_that_are_not_finite_are_refused() -> None:
    desk = Desk(job_of(2)).start()
    desk.stage(desk.leased("a"), metrics=(m.Metric("acc", float("inf")),))
    assert "its metric acc is inf; give a finite number" in desk.ended()[-1][1]


def test_frozen_parameters_are_absent_and_in_no_norm_from_their_step_on() -> None:
    desk = Desk(job_of(1), shards=1).start()
    change = m.ConfigChangeRequest("r", "j", 1, '{"frozen": ["a"]}', "me")
    desk.ask(change)
    for step in (0, 1):
        desk.fill()
        desk.prepare(step, squares=4.0)
        desk.from_all(m.Applied("j", step, ()))
    commits = desk.sent(m.Commit)
    assert [commit.present for commit in commits] == [b"\x03", b"\x02"]
    assert [report.gradient_norm for report in desk.reports] == [8.0**0.5, 2.0]
    told = desk.coordinator.status(desk.now).changes[-1]
    assert told == m.Change(1, "me", 'frozen: [] -> ["a"]')


def test_a_pattern_that_freezes_nothing_is_refused() -> None:
    desk = Desk().start()
    with pytest.raises(BadConfig, match=r"'c\*' matches no parameter of 2, e.g. a, b"):
        desk.ask(m.ConfigChangeRequest("r", "j", 1, '{"frozen": ["c*"]}', "me"))


def test_shards_have_an_address_for_each_network() -> None:
    desk = Desk(shards=1)
    desk.tell(e.ShardUp(0, 1, m.Hello(1, 0, 1, "inner", "eager/cpu", 100, external_address="outer"), False))
    assert desk.attach("a").shards[0].address == "inner"
    assert desk.attach("b", network="external").shards[0].address == "outer"
    with pytest.raises(BadConfig, match="network = 'moon': give cluster or external"):
        desk.attach("c", network="moon")


def test_worker_is_told_of_its_ended_attempt_until_it_has_heard() -> None:
    desk = Desk().start("b")
    lease = desk.leased("b")
    desk.wait(10.0)
    reply = desk.ask(m.HeartbeatRequest("j", "b"))
    assert isinstance(reply, m.HeartbeatReply)
    assert reply.ends == (m.AttemptEnd(lease.attempt, "expired", is_committed=False, number=1),)
    lost = desk.ask(m.HeartbeatRequest("j", "b"))  # the reply never came: it is told again
    assert isinstance(lost, m.HeartbeatReply)
    assert lost.ends == reply.ends
    again = desk.ask(m.HeartbeatRequest("j", "b", ends_heard=1))
    assert isinstance(again, m.HeartbeatReply)
    assert not again.ends


def test_leaving_worker_hands_its_leases_back_at_once() -> None:
    """SIGTERM: nobody waits for a lease to expire."""
    desk = Desk().start("b")
    lease = desk.leased("b")
    assert desk.ask(m.ReleaseRequest("j", "b", is_leaving=True)) == m.ReleaseReply(1)
    assert desk.leased("a").slot == lease.slot


def test_leaving_worker_does_not_hand_back_what_every_shard_told_it_is_staged() -> None:
    """The shards' own reports come over other connections, and may come later than the worker's last call."""
    desk = Desk().start("b")
    lease = desk.leased("b")
    reply = desk.ask(m.ReleaseRequest("j", "b", is_leaving=True, staged=(lease.attempt,)))
    assert reply == m.ReleaseReply(0)
    desk.stage(lease)
    assert desk.state.steps[0].slots[lease.slot or 0].winner is not None


def test_attempt_that_its_worker_took_for_staged_and_is_not_expires() -> None:
    desk = Desk().start("b")
    lease = desk.leased("b")
    desk.ask(m.ReleaseRequest("j", "b", is_leaving=True, staged=(lease.attempt,)))
    desk.wait(1_000.0)
    desk.attach("a")
    assert desk.leased("a").slot == lease.slot


def test_worker_that_left_is_unknown() -> None:
    desk = Desk().start("b")
    desk.ask(m.ReleaseRequest("j", "b", is_leaving=True))
    with pytest.raises(WorkerUnknown):
        desk.lease("b")


def test_release_of_one_attempt_keeps_the_others() -> None:
    desk = Desk().start()
    first = desk.leased("a")
    second = desk.leased("a", first)
    assert desk.ask(m.ReleaseRequest("j", "a", (first.attempt,))) == m.ReleaseReply(1)
    assert [a.id for a in desk.state.attempts] == [second.attempt]


def test_silent_worker_is_forgotten() -> None:
    desk = Desk().start("b")
    desk.wait(31.0)
    assert not desk.coordinator.status(desk.now).workers


# --- administration --------------------------------------------------------------------------------------


def change(desk: Desk, changes: str, from_step: int = -1, request_id: str = "") -> int:
    reply = desk.ask(m.ConfigChangeRequest(request_id, "j", from_step, changes, "ann"))
    assert isinstance(reply, m.ConfigChangeReply)
    return reply.from_step


def test_live_key_changes_from_the_next_undecided_step() -> None:
    desk = Desk(job_of(slots=1)).start()
    desk.stage(desk.leased("a"))
    assert change(desk, '{"optimizer.lr.peak": 0.5}') == 1
    desk.finish(0)
    desk.stage(desk.leased("a"))
    desk.finish(1)
    assert [report.learning_rate for report in desk.reports] == [0.1, 0.5]


def test_live_key_changes_from_the_step_asked_for() -> None:
    desk = Desk(job_of(slots=1)).start()
    change(desk, '{"optimizer.lr.peak": 0.5}', from_step=2)
    assert [desk.state.config.at(t).optimizer.lr.peak for t in (1, 2)] == [0.1, 0.5]


@pytest.mark.parametrize(
    "changes",
    ['{"optimizer.beta1": 0.5}', "no", "[]", "{}", '{"stop.steps": "many"}', '{"optimizer.lr.peak": -1}'],
)
def test_sealed_key_or_bad_value_is_refused_and_changes_nothing(changes: str) -> None:
    desk = Desk().start()
    with pytest.raises(BadConfig):
        change(desk, changes)
    assert desk.state.job == desk.job


def test_step_already_decided_cannot_be_changed() -> None:
    desk = Desk(job_of(slots=1)).start()
    desk.stage(desk.leased("a"))
    with pytest.raises(BadConfig, match="step 1 is the first"):
        change(desk, '{"optimizer.lr.peak": 0.5}', from_step=0)


def test_job_cannot_be_cut_below_its_open_step() -> None:
    desk = Desk(job_of(batch={"delay": 2})).start()
    with pytest.raises(BadConfig, match="step 2 is already open"):
        change(desk, '{"stop.steps": 2}')


def test_repeated_change_acts_once() -> None:
    desk = Desk().start()
    assert change(desk, '{"optimizer.lr.peak": 0.5}', request_id="c1") == 0
    assert change(desk, '{"optimizer.lr.peak": 0.5}', request_id="c1") == 0
    assert len(desk.state.config._changes) == 2


def test_ended_job_takes_no_change() -> None:
    desk = Desk(job_of(slots=1, stop={"steps": 1})).start()
    desk.stage(desk.leased("a"))
    desk.finish(0)
    with pytest.raises(JobHasEnded):
        change(desk, '{"stop.steps": 9}')


def control(desk: Desk, action: str) -> str:
    reply = desk.ask(m.ControlRequest("j", action, "ann"))
    assert isinstance(reply, m.ControlReply)
    return reply.state


def test_paused_job_leases_nothing_until_resumed() -> None:
    desk = Desk().start()
    assert control(desk, "pause") == "paused"
    assert desk.lease_reply("a").state == "paused"
    assert control(desk, "resume") == "running"
    assert desk.lease("a") is not None


def test_stop_ends_the_job_after_the_open_step() -> None:
    desk = Desk(job_of(slots=1)).start()
    lease = desk.leased("a")
    assert control(desk, "stop") == "running"
    desk.stage(lease)
    desk.finish(0)
    assert (desk.state.life, desk.state.version) == (Life.ENDED, 1)


def test_stop_leaves_the_learning_rate_alone() -> None:
    """poly runs to stop.steps of the configuration, not to where an operator stopped."""
    job = job_of(
        slots=1, optimizer={"lr": {"peak": 1.0, "schedule": "poly", "warmup_steps": 1}}, stop={"steps": 5}
    )
    desk = Desk(job).start()
    desk.fill()
    control(desk, "stop")
    desk.finish(0)
    assert desk.state.job == job


def test_job_paused_before_its_start_resumes_where_it_stood() -> None:
    desk = Desk().open()
    desk.from_shard(0, m.ShardFailed("j", "disk", desk.state.term))
    assert control(desk, "resume") == "initialising"


def test_failure_told_in_an_earlier_term_pauses_nothing() -> None:
    desk = Desk().start()
    desk.from_shard(0, m.ShardFailed("j", "disk", desk.state.term - 1))
    assert desk.state.life is Life.RUNNING
    desk.from_shard(0, m.ShardFailed("j", "disk", desk.state.term))
    assert (desk.state.life, desk.state.why) == (Life.PAUSED, "shard 0: disk")


def test_unknown_action_is_refused() -> None:
    with pytest.raises(BadConfig, match="pause, resume or stop"):
        control(Desk().start(), "dance")


@pytest.mark.parametrize(
    ("to_version", "skip", "said"),
    [
        (3, (), r"to_version = 3: job j has versions 0 to 2"),
        (-1, (), r"to_version = -1"),
        (1, ((3, 4),), r"skip: 4 samples from 3 on; give 1 or more, from 4 on"),
        (1, ((8, 0),), r"skip: 0 samples from 8 on"),
    ],
)
def test_what_cannot_be_gone_back_to_is_refused(
    to_version: int, skip: tuple[tuple[int, int], ...], said: str
) -> None:
    desk = Desk(job_of(slots=1)).start()
    for step in range(2):
        desk.stage(desk.leased("a"))
        desk.finish(step)
    ranges = tuple(m.SampleRange(*each) for each in skip)
    with pytest.raises(BadConfig, match=said):
        desk.ask(m.RewindRequest("r", "j", to_version, ranges, "ann"))


def test_a_job_that_has_not_begun_has_nothing_to_go_back_to() -> None:
    with pytest.raises(BadConfig, match="to_version = 3: job j has no version yet"):
        Desk().ask(m.RewindRequest("r", "j", 3))


def test_without_a_checkpoint_a_job_does_not_go_back_and_stays_as_it_is() -> None:
    desk = Desk(job_of(slots=1)).start()
    desk.stage(desk.leased("a"))
    desk.finish(0)
    with pytest.raises(
        NoCheckpoint, match="job j cannot go back to version 0: this coordinator keeps no checkpoints"
    ):
        desk.ask(m.RewindRequest("r", "j", 0, (m.SampleRange(0, 4),), "ann"))
    assert (desk.state.version, desk.state.lineage) == (1, "lineage")


# --- shards and their links ------------------------------------------------------------------------------


def test_room_for_one_part_pauses_the_job_and_names_the_remedy() -> None:
    desk = Desk(part_slots=1).open()
    assert desk.state.life is Life.PAUSED
    assert "raise --staging-bytes" in desk.state.why


def test_worker_of_a_job_that_cannot_run_is_told_why() -> None:
    with pytest.raises(WindowTooSmall, match="2 are needed"):
        Desk(part_slots=1).open().lease("a")


def test_ended_job_is_not_paused() -> None:
    desk = Desk(job_of(slots=1, stop={"steps": 1})).start()
    desk.stage(desk.leased("a"))
    desk.finish(0)
    desk.from_shard(0, m.ShardFailed("j", "disk", desk.state.term))
    assert desk.state.life is Life.ENDED


def test_nothing_is_leased_while_a_shard_is_away() -> None:
    desk = Desk().start()
    desk.tell(e.ShardDown(1))
    assert desk.lease("a") is None
    desk.connect(1, is_resumed=True)
    assert desk.lease("a") is None
    desk.opened(1, version=0)
    assert desk.lease("a") is not None


def test_shard_is_told_nothing_between_its_link_and_its_answer() -> None:
    """It drops what is undecided when it reads OpenJob; an admission in between would find no part."""
    desk = Desk().start()
    lease = desk.leased("a")
    desk.stage(lease, 0)
    desk.connect(0, is_resumed=True)
    before = len(desk.effects)
    desk.stage(lease, 1)
    told = {f.shard for f in desk.effects[before:] if isinstance(f, e.ToShard)}
    assert 0 not in told


def test_undecided_step_begins_again_everywhere_when_a_link_resumes() -> None:
    desk = Desk().start("b")
    desk.stage(desk.leased("a"))
    waiting = desk.leased("b")
    desk.connect(1, is_resumed=True)
    desk.opened(1, version=0)
    assert len(desk.sent(m.Restart, 0)) == len(desk.sent(m.Restart, 1)) == 1
    assert waiting.attempt in [attempt for attempt, _ in desk.ended()]
    assert desk.leased("a").slot == 0


def test_resumed_shard_learns_of_the_newest_attempt() -> None:
    """Its announcement and its end may both be lost; a push of it must not wait for ever."""
    desk = Desk().start()
    lease = desk.leased("a")
    desk.tell(e.ShardDown(1))
    desk.wait(10.0)
    desk.connect(1, is_resumed=True)
    desk.opened(1, version=0)
    assert desk.sent(m.EndAttempts, 1)[-1].attempts == (lease.attempt,)


def test_decision_is_repeated_to_a_resumed_shard() -> None:
    desk = Desk(job_of(slots=1)).start()
    desk.stage(desk.leased("a"))
    desk.prepare(0)
    desk.connect(1, is_resumed=True)
    desk.opened(1, version=0, prepared=desk.sent(m.Commit, 0)[0].map_digest)
    assert desk.sent(m.Commit, 1) == [desk.sent(m.Commit, 0)[0]] * 2


def test_shard_that_comes_back_without_its_state_pauses_the_job() -> None:
    desk = Desk(job_of(slots=1)).start()
    desk.stage(desk.leased("a"))
    desk.finish(0)
    desk.connect(1)
    desk.opened(1, version=-1)
    assert "came back with version -1, version 1 is committed" in desk.state.why


def test_status_names_who_is_waited_for() -> None:
    desk = Desk().start()
    assert desk.coordinator.status(desk.now).waiting_for == "a worker to take slot 0 of step 0"
    desk.leased("a")
    desk.now += 2.0
    assert "leased to a 2.0 s ago" in desk.coordinator.status(desk.now).waiting_for
